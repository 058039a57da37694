"""Coverage-guided fuzzing of the update codec's decoders.

    .venv/bin/pip install atheris
    .venv/bin/python -m tests.compression.fuzz_codec CORPUS -max_total_time=600 -rss_limit_mb=1024

Anything else than `CodecError` ends it and leaves the input in a file, which becomes a case of
`test_updates_hostile.py`. CORPUS is a folder for inputs that reached something new; it starts with
whole payloads of every profile. Not part of the tests: it goes on for as long as it is told to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["compression.updates"]):
    from compression.updates import CodecError, integers
from tests.compression.test_updates_hostile import PACKED, PAYLOADS, decode, sealed, unpack

INTEGERS = 3000  # enough for the coder of a few thousand tokens


def one_input(data: bytes) -> None:
    """The first byte chooses the decoder; the checksum is made to hold."""
    if not data:
        return
    try:
        match data[0] % 4:
            case 0 | 1:
                decode(sealed(data[1:]))
            case 2:
                unpack(sealed(data[1:]))
            case 3:
                decoded = integers.decode(data[1:], INTEGERS, 1 << integers.MAX_BITS)
                assert decoded.size == INTEGERS
    except CodecError:
        return


def main() -> None:
    """Write the first corpus, and fuzz with libFuzzer's options."""
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, payload in enumerate(PAYLOADS):
        (corpus / f"payload-{number}").write_bytes(b"\0" + payload[:-4])
    (corpus / "model").write_bytes(b"\2" + PACKED[:-4])
    for number, values in enumerate((bytes(range(9)) * 334, bytes(INTEGERS))):
        array = np.frombuffer(values[:INTEGERS], "u1").astype("u4")
        (corpus / f"integers-{number}").write_bytes(b"\3" + integers.encode(array))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
