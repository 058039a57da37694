"""``bramble-provision``: cards, identities and installations of a fleet, from a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from compression.command_line import program, run_program
from provisioning.enrolment_commands import add_enrol_server, add_token, add_watch
from provisioning.flash_commands import add_flash
from provisioning.image_commands import add_image, add_inspect
from provisioning.install_commands import add_bundle, add_wheelhouse
from provisioning.pki.commands import add_ca_commands
from provisioning.ssh_commands import add_ssh
from provisioning.upgrade_commands import add_upgrade

EXAMPLES = (
    "bramble-provision ca init --fleet ward-3 --ca fleet/ca",
    "bramble-provision ca sign pi-1.csr --name pi-1 --ca fleet/ca",
    "bramble-provision ca revoke pi-1 --ca fleet/ca --dry-run",
    "bramble-provision token issue pi-1 pi-2 --expires 7d --out tokens --ca fleet/ca",
    "bramble-provision wheelhouse --target trixie-arm64 --out wheelhouse/trixie-arm64",
    "bramble-provision flash raspios.img.xz --card cards.toml --name pi-1 --device /dev/sda --dry-run",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program("bramble-provision", "Prepare the members of a fleet.", EXAMPLES)
    add_ca_commands(commands)
    add_token(commands)
    add_enrol_server(commands)
    add_watch(commands)
    add_wheelhouse(commands)
    add_bundle(commands)
    add_flash(commands)
    add_image(commands)
    add_inspect(commands)
    add_ssh(commands)
    add_upgrade(commands)
    return run_program(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
