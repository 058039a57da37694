"""``bramble-edge`` as it lies on a device: launcher and installer in one file for the system's Python."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/python3 -IS\n"
PACKAGE = Path(__file__).resolve().parents[2] / "edge_client"
MAIN = b"import sys\n\nfrom edge_client.device.program import main\n\nsys.exit(main(sys.argv[1:]))\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file holds


def device_program() -> bytes:
    """The zip application; equal sources give equal bytes."""
    sources = {f"edge_client/device/{path.name}": path for path in (PACKAGE / "device").glob("*.py")}
    files = {name: path.read_bytes() for name, path in sources.items()}
    files |= {"__main__.py": MAIN, "edge_client/__init__.py": b""}
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name])
    return buffer.getvalue()
