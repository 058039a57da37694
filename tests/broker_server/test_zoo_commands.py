"""``bramble-server zoo``."""

from __future__ import annotations

import json

import pytest

from broker_server.cli import main
from broker_server.models import MODELS
from tests.broker_server.tiny_backbone import HEAD, use_tiny_backbone

pytest.importorskip("tf_keras")


@pytest.mark.slow
def test_zoo_says_input_parameters_and_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_backbone(monkeypatch)
    assert main(["zoo", "small_mlp", "mobilenet_v2", "--json"]) == 0
    mlp, head = json.loads(capsys.readouterr().out)
    assert mlp["name"] == "small_mlp" and mlp["input"] == [30]
    assert mlp["parameters"] == 30 * 32 + 32 + 32 * 16 + 16 + 16 + 1
    assert head["input"] == [96, 96, 3] and head["parameters"] == HEAD
    for row in (mlp, head):
        assert set(row["peak_rss_mb"]) == {"ai-edge-litert", "tflite-runtime"}
        assert all(40 < peak < 100 for peak in row["peak_rss_mb"].values())
        assert row["bundle_bytes"] < 100_000
    assert mlp["extractor_bytes"] == 0 and 1_000 < head["extractor_bytes"] < 20_000
    assert all(head["peak_rss_mb"][name] > peak for name, peak in mlp["peak_rss_mb"].items())


def test_unknown_model_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "large_cnn"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: unknown model 'large_cnn': use one of ") and all(n in said for n in MODELS)
