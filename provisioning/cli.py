"""``bramble-provision``: the fleet's identities from a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from provisioning.pki.commands import add_ca_commands
from provisioning.pki.errors import PkiError

EXAMPLES = """examples:
  bramble-provision ca init --fleet ward-3 --ca fleet/ca
  bramble-provision ca sign pi-1.csr --name pi-1 --ca fleet/ca
  bramble-provision ca revoke pi-1 --ca fleet/ca --dry-run
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line; every command sets `run`."""
    parser = argparse.ArgumentParser(
        prog="bramble-provision",
        description="Prepare the members of a fleet.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_ca_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 refused or failed (one line says why), 2 wrong usage, 130 interrupted."""
    args = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except (PkiError, OSError) as exc:
        print(f"error: {' '.join(str(exc).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
