"""The units that run a client on a device: install, enrol, serve, upgrade, and show how it goes.

::

    bramble-install.service   from a bundle on the boot partition, until it has succeeded once
    bramble-enrol.service     until the device has its certificate; then starts ...
    bramble-edge.service      the client itself, from then on at each boot
    bramble-status.path       copies what the two say to the boot partition, where any computer can read it
    bramble-upgrade.path      installs a signed client that the service has fetched

Made for systemd 252 (bookworm) and newer; keys that it does not know yet are only warned of. The hardening
follows ``systemd-analyze security``; a test keeps its score below 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

INSTALL, ENROL, EDGE = "bramble-install.service", "bramble-enrol.service", "bramble-edge.service"
STATUS_PATH, STATUS = "bramble-status.path", "bramble-status.service"
UPGRADE_PATH, UPGRADE = "bramble-upgrade.path", "bramble-upgrade.service"

PROGRAM = "/opt/bramble/bramble-edge"
CONFIG = "/etc/bramble/edge.toml"
STATE = "/var/lib/bramble"
REAL_STATE = (
    "/var/lib/private/bramble"  # where a dynamic user's state lies; only root may look in from outside
)
IDENTITY = f"{REAL_STATE}/identity"
INSTALLED = "/opt/bramble/installed"
STATUS_LOG = "status.log"
UPGRADE_REQUEST = f"{REAL_STATE}/upgrade/staged.json"

WATCHDOG_S = 600  # one batch of a large model on the smallest board, many times over
FIRST_START_S = 900  # until the first word to systemd; while examples are counted the client asks for more

# Its own user for as long as it runs, nothing writable but its state, no devices, no capabilities, and the
# system calls of an ordinary service. @resources is refused with an error, which numeric libraries survive.
CONFINED = """\
DynamicUser=yes
User=bramble
StateDirectory=bramble
StateDirectoryMode=0700
CacheDirectory=bramble
UMask=0077
Environment=BRAMBLE_STATUS_FILE=/var/lib/bramble/status.log
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

LOGGING = """\
SyslogIdentifier=bramble
LogRateLimitIntervalSec=30
LogRateLimitBurst=200
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the client may take of the device. Memory limits need the memory cgroup: docs/installing.md."""

    memory_high: str = "60%"
    memory_max: str = "75%"
    cpu_weight: int = 50  # 100 is everybody else's
    nice: int = 5


def edge_unit(data: str, limits: Limits = Limits()) -> str:
    """The client's unit; `data` is the path of its examples, made visible where it lies in a home."""
    return f"""\
[Unit]
Description=Bramble edge client
ConditionPathExists={IDENTITY}/device.crt
After=network.target time-sync.target {ENROL}
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={PROGRAM} run --config {CONFIG}
Environment=BRAMBLE_SERVICE=1
TimeoutStartSec={FIRST_START_S}
TimeoutStopSec=30
WatchdogSec={WATCHDOG_S}
Restart=always
RestartSec=5
RestartSteps=6
RestartMaxDelaySec=300
MemoryHigh={limits.memory_high}
MemoryMax={limits.memory_max}
CPUWeight={limits.cpu_weight}
IOWeight={limits.cpu_weight}
Nice={limits.nice}
TasksMax=128
OOMPolicy=stop
{_visible(data)}{CONFINED}{LOGGING}
[Install]
WantedBy=multi-user.target
"""


def enrol_unit() -> str:
    """Gets the certificate, as often as it takes; a refusal (exit 1) is for a person to look at."""
    return f"""\
[Unit]
Description=Bramble: get this device's certificate
ConditionPathExists=!{IDENTITY}/device.crt
After=network.target time-sync.target {INSTALL}
StartLimitIntervalSec=0
OnSuccess={EDGE}

[Service]
Type=oneshot
ExecStart=-{PROGRAM} report-step install ok --config {CONFIG}
ExecStart={PROGRAM} enrol --config {CONFIG} --wait 60
Restart=on-failure
RestartPreventExitStatus=1
RestartSec=15
TimeoutStartSec=300
{CONFINED}{LOGGING}
[Install]
WantedBy=multi-user.target
"""


def install_unit(bundle: PurePosixPath) -> str:
    """Installs from `bundle`, at each boot until it has succeeded."""
    return f"""\
[Unit]
Description=Bramble: install from {bundle}
ConditionPathExists=!{INSTALLED}
ConditionPathExists={bundle}/install.json
RequiresMountsFor={bundle}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -I {bundle}/bramble-edge device install {bundle}
{LOGGING}
[Install]
WantedBy=multi-user.target
"""


def status_units(boot_log: PurePosixPath) -> dict[str, str]:
    """What copies the service's status lines to the boot partition, which only root may write."""
    path = f"""\
[Unit]
Description=Bramble: watch for news of the first boot

[Path]
PathModified={REAL_STATE}/{STATUS_LOG}

[Install]
WantedBy=multi-user.target
"""
    service = f"""\
[Unit]
Description=Bramble: copy news to the boot partition
ConditionPathIsDirectory={boot_log.parent}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={PROGRAM} device copy-status {REAL_STATE}/{STATUS_LOG} {boot_log}
ReadWritePaths={boot_log.parent}
{_root_but_little("CAP_DAC_READ_SEARCH")}{LOGGING}"""
    return {STATUS_PATH: path, STATUS: service}


def upgrade_units() -> dict[str, str]:
    """What installs a client that the service has fetched, after checking its signature again, as root."""
    path = f"""\
[Unit]
Description=Bramble: watch for an upgrade of the client

[Path]
PathExists={UPGRADE_REQUEST}

[Install]
WantedBy=multi-user.target
"""
    service = f"""\
[Unit]
Description=Bramble: install an upgrade of the client
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={PROGRAM} upgrade {PurePosixPath(UPGRADE_REQUEST).parent}/client.upgrade --outcome --config {CONFIG}
ExecStopPost=-/bin/rm -f {UPGRADE_REQUEST}
ExecStopPost=/bin/systemctl --no-block restart {EDGE}
ReadWritePaths=/opt/bramble {REAL_STATE}
{_root_but_little("CAP_DAC_OVERRIDE")}{LOGGING}"""
    return {UPGRADE_PATH: path, UPGRADE: service}


def units(data: str, bundle: PurePosixPath, *, from_boot: bool, limits: Limits = Limits()) -> dict[str, str]:
    """Every unit of a device, by name; the installer's only where it installs from the boot partition."""
    named = {EDGE: edge_unit(data, limits), ENROL: enrol_unit()}
    named |= status_units(bundle / STATUS_LOG) | upgrade_units()
    return named | ({INSTALL: install_unit(bundle)} if from_boot else {})


def enabled(names: Sequence[str]) -> tuple[str, ...]:
    """Which of the units start at boot."""
    return tuple(name for name in names if name not in (STATUS, UPGRADE))


def _visible(data: str) -> str:
    hidden = any(PurePosixPath(data).is_relative_to(home) for home in ("/home", "/root", "/run/user"))
    escaped = data.replace("\\", "\\\\").replace(" ", "\\x20").replace("%", "%%").replace(":", "\\:")
    return f"BindReadOnlyPaths=-{escaped}\n" if hidden else ""


def _root_but_little(capability: str) -> str:
    """Root without root's powers, but for files of other users."""
    return f"""\
CapabilityBoundingSet={capability}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
LockPersonality=yes
"""
