"""Error feedback: what compression keeps back is owed, and added to the next update (Seide et al., 2014).

The residual is a value that goes in and comes out. Whoever keeps it takes the new one only when the
update counts: after the server's receipt on a device, after the commit of a version on the server. An
update that was refused, lost or aborted leaves the old residual in force: its training is repeated or
given up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compression.spec import TensorSpec, Weights
from compression.updates.codec import Encoded, encode_update
from compression.updates.errors import CodecError
from compression.updates.profile import CodecProfile
from compression.updates.stages import Floats


def with_feedback(
    delta: Weights,
    residual: Weights | None,
    profile: CodecProfile,
    *,
    model_digest: str,
    round_number: int,
    tensors: Sequence[TensorSpec] | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[Encoded, dict[str, Floats]]:
    """Compress ``delta + residual``; return the payload and the next residual.

    A statistic owes nothing: it is measured anew every round, and the next delta holds what this one lost. A
    residual would carry it past the measurement, and a variance below zero.

    Raises:
        CodecError: as `encode_update`, or a residual of other tensors.
    """
    if residual is not None and [(n, a.shape) for n, a in residual.items()] != [
        (n, a.shape) for n, a in delta.items()
    ]:
        raise CodecError("the residual belongs to another model; start without one")
    statistics = {tensor.name for tensor in tensors or () if tensor.role == "statistic"}
    owed = {  # np.array: arithmetic on a 0-d array gives a scalar, which nothing can be subtracted in
        name: np.array(array if residual is None or name in statistics else array + residual[name])
        for name, array in delta.items()
    }
    encoded = encode_update(
        owed, profile, model_digest=model_digest, round_number=round_number, tensors=tensors, rng=rng
    )
    for name, array in owed.items():
        if name in statistics or profile.exact:
            array.fill(0)
        else:
            np.subtract(array, encoded.sent[name], out=array)
    return encoded, owed
