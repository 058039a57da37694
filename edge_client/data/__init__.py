"""Loading, splitting, preprocessing and batching of a device's own examples.

`load_data` and `batches` are what training uses, `preprocess` what prediction uses, `summarise` and
`column_statistics` what may be told to the server.
"""

from edge_client.data.augmentation import augment_pictures
from edge_client.data.batches import Batch, balanced_weights, batches
from edge_client.data.column_statistics import (
    ColumnStatistics,
    column_statistics,
    table_input,
)
from edge_client.data.errors import DataError
from edge_client.data.local import LocalData, class_names, load_data, summarise
from edge_client.data.preprocessing import normalise, preprocess
from edge_client.data.sketch import QuantileSketch
from edge_client.data.source import DataSource
from edge_client.wire.summary import DataSummary

__all__ = [
    "Batch",
    "ColumnStatistics",
    "DataError",
    "DataSource",
    "DataSummary",
    "LocalData",
    "QuantileSketch",
    "augment_pictures",
    "balanced_weights",
    "batches",
    "class_names",
    "column_statistics",
    "load_data",
    "normalise",
    "preprocess",
    "summarise",
    "table_input",
]
