"""What is written is checked against the schema of the program that will read it, before a byte is written.

cloud-init's own schemas (25.1.4) come with the package; for netplan's Wi-Fi, custom.toml and
rpi-preseed, whose readers ignore what they do not know, ours are stricter than the readers.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, Literal

from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from provisioning.customise.errors import CustomiseError

Document = Literal["cloud-config", "network-config-v2", "netplan-wifis", "custom-toml", "rpi-preseed"]


def check(document: Document, plain: Any) -> None:
    """Refuse what does not fit its schema; the message holds paths and keys, never values."""
    error = best_match(_validator(document).iter_errors(plain))
    if error is not None:
        raise CustomiseError(f"{document}: {_said(error)}")


def check_network(plain: dict[str, Any]) -> None:
    """A network-config: cloud-init's schema, ours for Wi-Fi, and one interface that boot waits for.

    With every interface optional the system is "online" before it is, and time and enrolment fail first.
    """
    network = dict(plain["network"])
    wifis = network.pop("wifis", None)
    check("network-config-v2", {"network": network})
    if wifis is not None:
        check("netplan-wifis", wifis)
    interfaces = [*network.get("ethernets", {}).values(), *(wifis or {}).values()]
    if all(interface.get("optional", False) for interface in interfaces):
        raise CustomiseError("network-config: one interface at least must not be optional")


@cache
def _validator(document: Document) -> Validator:
    text = (
        resources.files("provisioning.customise").joinpath("schemas", f"{document}.json").read_text("utf-8")
    )
    schema = json.loads(text)
    return validator_for(schema)(schema)


def _said(error: ValidationError) -> str:
    """Where and which rule; jsonschema's own message would quote the value, which may be a secret."""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = set(error.schema.get("properties", ()) if isinstance(error.schema, dict) else ())
        return f"{error.json_path}: unknown key {', '.join(sorted(set(error.instance) - known))}"
    if error.validator == "required" and isinstance(error.instance, dict):
        required = error.schema.get("required", ()) if isinstance(error.schema, dict) else ()
        missing = [key for key in required if key not in error.instance]
        return f"{error.json_path}: {', '.join(missing)} is missing"
    return f"{error.json_path} breaks the rule {error.validator!r}"
