"""Simulated fleets: one data set dealt out to many clients."""

from broker_server.simulation.demo_data import prepare_demo_data
from broker_server.simulation.errors import SimulationError
from broker_server.simulation.partitions import Partition, parse_partition, partition
from broker_server.simulation.values import ClientData, DemoData

__all__ = [
    "ClientData",
    "DemoData",
    "Partition",
    "SimulationError",
    "parse_partition",
    "partition",
    "prepare_demo_data",
]
