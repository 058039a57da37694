"""The controller behind ``codec = "auto"``: courses whose answer is known by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker_server.codec_control import LADDER, choose_codec, waiting_share
from broker_server.config import CodecConfig
from broker_server.records import ClientRecord, RoundRecord
from compression.records import RecordError
from compression.updates import PROFILES
from edge_client.wire.evaluation import EvaluationSums

FAST, SLOW = 1.05, 10.0  # seconds of a round with one second of training in it


def rounds(losses: Sequence[float | None], seconds: float) -> list[RoundRecord]:
    client = ClientRecord(examples=10, loss=0.5, seconds=1.0, bytes_up=1, bytes_down=1)
    quick = ClientRecord(examples=10, loss=0.5, seconds=0.1, bytes_up=1, bytes_down=1)
    return [
        RoundRecord(
            round=number,
            version=number,
            started=0.0,
            seconds=seconds,
            clients={"a": client, "b": quick},
            dropped={},
            evaluation=None if loss is None else EvaluationSums(10 * loss, (5, 0, 0, 5)),
        )
        for number, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("losses", "seconds", "expected"),
    [
        ([], SLOW, "small"),
        ([0.9, 0.8, 0.7, 0.6, 0.5], FAST, "small"),  # bytes cost nothing: why send less
        ([0.9, 0.8], SLOW, "tiny"),
        ([0.9, 0.8, 0.7, 0.6], SLOW, "tiny"),  # there is no rung below
        ([0.9, 0.9, 0.9], FAST, "medium"),
        ([0.9, 0.9, 0.9, 0.9, 0.9], FAST, "safe"),
        ([0.9] * 20, FAST, "safe"),  # nor one above
        ([0.9, 0.899, 0.898], FAST, "medium"),  # a gain too small to count
        ([0.9, 0.9, 0.8, 0.8], FAST, "small"),  # a gain in between: patience begins again
        ([0.9, 0.9, 0.9, 0.8, 0.7], SLOW, "small"),
        ([0.9, None, None, None], FAST, "small"),  # not evaluated: nothing is known
    ],
)
def test_known_courses(losses: list[float | None], seconds: float, expected: str) -> None:
    assert choose_codec("auto", rounds(losses, seconds)) == expected


def test_a_profile_that_was_named_stays() -> None:
    assert choose_codec("tiny", rounds([0.9] * 9, FAST)) == "tiny"


def test_what_the_devices_found_counts_where_the_server_has_no_examples() -> None:
    sums = EvaluationSums(9.0, (5, 0, 0, 5))
    stalled = [
        RoundRecord(round=n, version=n, started=0.0, seconds=1.0, clients={}, dropped={}, federated=sums)
        for n in (1, 2, 3)
    ]
    assert choose_codec("auto", stalled) == "medium"


def test_the_share_of_a_round_that_waits() -> None:
    assert waiting_share(rounds([0.9], 4.0)[0]) == pytest.approx(0.75)
    assert waiting_share(rounds([0.9], 0.5)[0]) == 0.0
    assert waiting_share(rounds([0.9], 0.0)[0]) == 0.0


def test_every_rung_is_a_profile_and_keeps_more_than_the_one_below() -> None:
    densities = [PROFILES[name].density for name in LADDER]
    assert densities == sorted(densities)


def test_settings_know_it() -> None:
    assert CodecConfig(up="auto", down="auto").up == "auto"
    with pytest.raises(RecordError, match=r"lossless, .*auto"):
        CodecConfig(up="brotli")
