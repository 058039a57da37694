"""The update codec: updates and models as few bytes, in both directions.

Stages over arrays (`stages`, `floats`, `integers`, `rans`, `bits`), put together by `codec`; NumPy and the
standard library only. The format: docs/update-codec.md.
"""

from compression.updates.codec import Decoded, Encoded, decode_update, encode_update
from compression.updates.errors import CodecError
from compression.updates.feedback import with_feedback
from compression.updates.packing import pack_model, unpack_model
from compression.updates.profile import PROFILES, CodecProfile

__all__ = [
    "PROFILES",
    "CodecError",
    "CodecProfile",
    "Decoded",
    "Encoded",
    "decode_update",
    "encode_update",
    "pack_model",
    "unpack_model",
    "with_feedback",
]
