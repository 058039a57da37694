"""Options that several commands of ``bramble-edge`` have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config(parser: argparse.ArgumentParser) -> None:
    """The settings file, the same option everywhere."""
    parser.add_argument(
        "--config", type=Path, default=Path("edge.toml"), help="settings file (default: %(default)s)"
    )


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Detail on standard error."""
    parser.add_argument("-v", "--verbose", action="store_true", help="also say what happens in detail")
