"""``bramble-provision``: cards, identities and installations of a fleet, from a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from compression.command_line import add_commands, program, run_program

COMMANDS = {
    "ca": "provisioning.pki.commands:add_ca_commands",
    "token": "provisioning.enrolment_commands:add_token",
    "enrol-server": "provisioning.enrolment_commands:add_enrol_server",
    "watch": "provisioning.enrolment_commands:add_watch",
    "wheelhouse": "provisioning.install_commands:add_wheelhouse",
    "bundle": "provisioning.install_commands:add_bundle",
    "flash": "provisioning.flash_commands:add_flash",
    "image": "provisioning.image_commands:add_image",
    "inspect": "provisioning.image_commands:add_inspect",
    "ssh": "provisioning.ssh_commands:add_ssh",
    "upgrade": "provisioning.upgrade_commands:add_upgrade",
}
EXAMPLES = (
    "bramble-provision ca init --fleet ward-3 --ca ward/pki",
    "bramble-provision ca sign pi-1.csr --name pi-1 --ca ward/pki",
    "bramble-provision ca revoke pi-1 --ca ward/pki --dry-run",
    "bramble-provision token issue pi-1 pi-2 --expires 7d --out tokens --ca ward/pki",
    "bramble-provision wheelhouse --target trixie-arm64 --out wheelhouse/trixie-arm64",
    "bramble-provision flash raspios.img.xz --card cards.toml --name pi-1 --device /dev/sda --dry-run",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program("bramble-provision", "Prepare the members of a fleet.", EXAMPLES)
    add_commands(commands, argv, COMMANDS)
    return run_program(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
