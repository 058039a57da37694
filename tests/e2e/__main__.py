"""``make e2e``: from an operating system's image to a training Pi, on an emulated board, nobody at it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tests.e2e.cache import Cache
from tests.e2e.machine import LABEL
from tests.e2e.scenario import run_scenario
from tests.e2e.shell import RigError, end_on_sigterm, require_programs
from tests.e2e.steps import Record, child_cpu_s

PROJECT = Path(__file__).resolve().parents[2]


def main() -> int:
    """0 where everything held; 1 with the reason in one place otherwise."""
    parser = argparse.ArgumentParser(prog="make e2e", description=__doc__)
    parser.add_argument("--cache", type=Path, default=PROJECT / ".e2e-cache", help="what is slow to make")
    parser.add_argument("--mode", choices=("prebaked", "bundle"), default="prebaked", help="how to install")
    parser.add_argument("--no-bench", action="store_true", help="leave bramble-bench in the guest out")
    parser.add_argument("--power-cut", action="store_true", help="pull the plug between two rounds")
    arguments = parser.parse_args()
    cache, record = Cache(arguments.cache.resolve()), Record(LABEL)
    folder = cache.folder / f"run-{arguments.mode}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    end_on_sigterm()
    try:
        require_programs()
        choices = {"bench": not arguments.no_bench, "power_cut": arguments.power_cut}
        run_scenario(cache, folder, record, mode=arguments.mode, **choices)
    except (RigError, AssertionError) as exc:
        record.facts["failed"] = str(exc)
        return 1
    finally:
        record.facts["cpu_s_of_everything"] = child_cpu_s()
        record.write(folder / "e2e.json")
        print(f"\n{record.text()}\n\nas JSON: {folder / 'e2e.json'}; logs and card beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
