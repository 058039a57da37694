"""Put a revoked device off the broker while its connection is open.

MQTT lets one client of a name in: the newest. mosquitto names clients by their certificate, so the
authority makes itself a certificate of that name, good for minutes and never written to the ledger,
connects, and is gone again. That ends the device's connection and its session with what was queued.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from broker_server.broker.link import linked
from edge_client.session.address import BrokerAddress
from provisioning.pki.authority import FleetCA
from provisioning.pki.files import PRIVATE, write_file
from provisioning.pki.keys import CERTIFICATE_FILE, KEY_FILE

EVICTION_TIMEOUT_S = 5.0


def evict(authority: FleetCA, address: BrokerAddress, name: str, directory: Path) -> None:
    """Take the place of `name` at the broker for a moment; `BrokerError` where that fails.

    `address` says where the broker is; `directory` holds the key for that moment, private to us.
    """
    key, certificate = authority.stand_in(name)
    with tempfile.TemporaryDirectory(dir=directory) as private:  # mode 0700
        key_file, certificate_file = Path(private) / KEY_FILE, Path(private) / CERTIFICATE_FILE
        write_file(key_file, key, mode=PRIVATE)
        write_file(certificate_file, certificate)
        as_device = replace(address, certificate_file=str(certificate_file), key_file=str(key_file))
        with linked(as_device, "5", name, timeout_s=EVICTION_TIMEOUT_S):
            pass
