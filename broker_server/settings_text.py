"""``server.toml`` as people find it: every setting with its value and a line on what it does.

Settings that are not set stand there as comments, so that nothing has to be looked up to be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit.items import Table

from broker_server.config import ServerConfig
from compression.records import to_plain

HEAD = "Settings of a Bramble fleet. Paths count from where this file lies. Unknown keys are errors."

SECTIONS: Mapping[str, str] = {
    "broker": "The MQTT broker.",
    "enrolment": "Where new devices get their certificates, beside a mosquitto that the server starts.",
    "model": "What is trained.",
    "model.augmentation": "Random changes of training pictures, on the devices.",
    "rounds": "How the rounds go.",
    "strategy": "How updates become the next model; docs/strategies.md lists the names and their parameters.",
    "cohort": "Who is asked in a round; docs/strategies.md lists the rules and their parameters.",
    "codec": "How changes of the weights are coded; docs/update-codec.md lists the profiles.",
    "data": "Examples that this machine itself may see, as KIND:PATH; none are needed.",
    "release": "The model that is made of the weights after the last round.",
    "release.ranges": "What devices tell of their activations for it; docs/model-compression.md.",
    "release.gate": "What a device demands of it, tried on the device's own examples.",
    "rollout": "How it reaches the fleet; docs/rollout.md.",
    "tracking": "Where the figures of each round go besides the report; docs/tracking.md.",
}

COMMENTS: Mapping[str, str] = {
    "fleet": "part of every topic; devices have it in their edge.toml",
    "state": "ledger, weights, updates",
    "keys": "the key that signs tasks and releases",
    "pki": "the certificate authority",
    "max_examples": "a device's claim counts up to this",
    "claim_factor": "and up to this times the fleet's median claim",
    "absent_days": "a device that is not seen for so long counts in no share and no total",
    "broker.kind": "auto, embedded, mosquitto, mqtt://HOST:PORT or mqtts://HOST:PORT",
    "broker.port": "0: a free one",
    "broker.host": "0.0.0.0: to be reached from the network",
    "broker.names": "names and addresses under which devices know this machine",
    "broker.ca_file": '"ca.crt": of a broker that is not ours; so are the next three',
    "broker.certificate_file": '"client.crt"',
    "broker.key_file": '"client.key"',
    "broker.password_file": '"password": a line, user:password',
    "enrolment.enabled": "",
    "enrolment.port": "8884: one above the broker's unless set",
    "enrolment.days": "a certificate is good for; devices renew theirs by themselves",
    "model.name": "of the zoo (bramble-server init --help), or module:function; mobilenet_v2@weights.h5",
    "model.kind": "image or table",
    "model.height": "of pictures, in pixels, as the next; devices scale theirs",
    "model.width": "",
    "model.channels": "1 grey, 3 colour",
    "model.scaling": "of a table's columns: standard (mean, deviation) or robust (median, quartiles)",
    "model.classes": "empty: those that the devices have; the positive one second",
    "model.loss": '"focal": cross-entropy unless set; also mean_squared_error',
    "model.optimizer": "sgd, momentum, nesterov, adam or adamw, on the devices",
    "model.batch_size": "",
    "model.micro_batch": "4: a divisor of batch_size; less memory, the same steps",
    "model.max_extractor_mb": "of a transfer model: its frozen part, which each device fetches once",
    "model.seed": "of the first weights and the order of examples",
    "model.sparsity": "0.8: so many of the kernels' weights are zero in the end; 0: none",
    "model.sparsity_schedule": "polynomial (more each round) or constant (all at the start)",
    "model.sparsity_start": "share of the rounds that train before anything is pruned",
    "model.sparsity_end": "share of the rounds until all is; the others train what is left",
    "model.fake_int8": "true: trained with int8's rounding, for a release of int8",
    "model.augmentation.horizontal_flip": "",
    "model.augmentation.vertical_flip": "",
    "model.augmentation.rotation_degrees": "at most, either way",
    "model.augmentation.shift": "at most, share of the side",
    "model.augmentation.brightness": "at most, share of the range",
    "rounds.rounds": "",
    "rounds.epochs": "on each device, in each round",
    "rounds.learning_rate": "of the devices' optimiser",
    "rounds.balance": "true: on each device its classes count the same",
    "rounds.quorum": "fewer results than this and a round is tried again",
    "rounds.wait_for": "devices before the first round",
    "rounds.wait_s": "seconds; after them quorum devices are enough",
    "rounds.deadline_s": "seconds of a round, at most",
    "rounds.grace_s": "seconds that a device may be away in a round",
    "rounds.late": "results of an earlier round: drop, or weigh (count for less)",
    "rounds.max_staleness": "rounds that a late result may be old",
    "rounds.fine_tune_epochs": "after the last round, each device for itself; 0: none",
    "strategy.name": "",
    "cohort.select": "",
    "cohort.size": "10: results that end a round; everyone's unless set",
    "cohort.over_select": "times as many are asked, for those that drop out",
    "codec.up": "lossless, safe, medium, small, tiny or auto",
    "codec.down": "the same",
    "data.evaluation": '"folder:held-out": accuracy after each round',
    "data.calibration": '"folder:calibration": for the int8 model, instead of the devices\' ranges',
    "release.enabled": "",
    "release.recipe": "int8, dynamic or float32",
    "release.calibration": "of int8: federated (devices' ranges), server (examples here), none, or auto",
    "release.ranges.examples": "of each device's own, at most",
    "release.ranges.clip_percent": "of an example's values at either end that do not count",
    "release.ranges.noise": "added to each bound, share of the range",
    "release.ranges.max_program_mb": "of what each device fetches for it: the network in float32",
    "release.wait_s": "seconds for the devices' reports",
    "release.gate.max_accuracy_drop": "against the float32 weights",
    "release.gate.max_latency_ms": "of one answer",
    "release.gate.min_examples": "fewer and accuracy is not asked",
    "release.gate.max_memory_mb": "of the process that tries it",
    "rollout.canary": "who has it first: a share, a number, or names with commas between",
    "rollout.stages": "percent of the fleet that have it after each next wave; then everyone",
    "rollout.observe_s": "seconds after a wave has decided, before the next",
    "rollout.min_success": "share of the offered that must take it to go on",
    "rollout.max_failed": "share of the offered above which it is taken back",
    "rollout.max_errors": "share of failed answers on a device in use",
    "tracking.tensorboard": '"tensorboard": a folder; tensorboard --logdir draws it',
    "tracking.mlflow": '"sqlite:///mlflow.db": or a server, http://HOST:PORT',
    "rollout.automatic": "false: after the canaries it waits for bramble-server models promote",
    "rollout.afterwards": "warn or rollback, where more than max_failed do badly once it is over",
}


def settings_text(config: ServerConfig) -> str:
    """The settings as TOML with comments; what `broker_server.config.load_config` reads back unchanged."""
    document = tomlkit.document()
    document.add(tomlkit.comment(HEAD))
    _fill(document, to_plain(config), "")
    return tomlkit.dumps(document)


def _fill(table: tomlkit.TOMLDocument | Table, plain: Mapping[str, Any], prefix: str) -> None:
    for key, value in plain.items():
        if not isinstance(value, dict):
            _add(table, key, value, COMMENTS.get(f"{prefix}{key}", ""))
    for key, value in plain.items():
        if isinstance(value, dict):
            section = tomlkit.table()
            if words := SECTIONS.get(f"{prefix}{key}"):
                section.add(tomlkit.comment(words))
            _fill(section, value, f"{prefix}{key}.")
            table.add(key, section)


def _add(table: tomlkit.TOMLDocument | Table, key: str, value: Any, words: str) -> None:
    if value is None:
        example, _, rest = words.partition(": ")
        table.add(tomlkit.comment(f"{key} = {example}" + (f"  # {rest}" if rest else "")))
        return
    item = tomlkit.item(value)
    table.add(key, item.comment(words) if words else item)
    if words:
        item.trivia.comment_ws = "  "
