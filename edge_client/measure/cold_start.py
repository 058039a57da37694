"""Child: from nothing to the first answer. ``python -m edge_client.measure.cold_start MODEL THREADS``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edge_client.health import peak_rss_mb
from edge_client.measure.model import open_model


def main(argv: Sequence[str]) -> int:
    """Print the steps' times."""
    started = time.perf_counter()
    try:
        model = open_model(Path(argv[0]).read_bytes(), threads=int(argv[1]))
        loaded = time.perf_counter()
        model.run()
    except (ValueError, RuntimeError, MemoryError, ImportError) as exc:
        print(json.dumps({"error": f"{argv[0]}: {(str(exc).strip().splitlines() or ['out of memory'])[0]}"}))
        return 1
    finished = time.perf_counter()
    answer = {
        "load_ms": 1e3 * (loaded - started),  # the import of the runtime included
        "first_run_ms": 1e3 * (finished - loaded),
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
