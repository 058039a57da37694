"""``bramble-edge`` for what comes before the agent: its commands without what the others load.

Importing numpy and the rest takes seconds on the smallest boards, and enrolling needs none of it. The
launcher comes here for these commands, and to `edge_client.cli` for all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from compression.command_line import program, run_program
from edge_client.enrol_commands import add_enrol, add_report_step
from edge_client.upgrade_commands import add_upgrade


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program(
        "bramble-edge",
        "Make a device of this machine, before it takes part in its fleet.",
        ["bramble-edge enrol --config /etc/bramble/edge.toml"],
    )
    add_enrol(commands)
    add_report_step(commands)
    add_upgrade(commands)
    return run_program(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
