"""The extractor on its way: the manifest once, then the file, kept as long as something names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compression.records import dumps
from compression.updates import pack_model
from edge_client.extractors import extractor_blobs, put_extractor, read_extractor
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import Receipt
from tests.edge_client.agent_cases import UP, WEIGHTS, Case, bundle_of, release, task

FILE = np.random.default_rng(0).bytes(300_000)  # three chunks
MANIFEST = dumps(BlobRef.of(FILE))


def test_the_manifest_leads_to_the_file(tmp_path: Path) -> None:
    here, there = BlobStore(tmp_path / "here"), BlobStore(tmp_path / "there")
    named = put_extractor(here, FILE)
    assert named == BlobRef.of(MANIFEST)
    assert extractor_blobs(here, None) == []
    assert extractor_blobs(here, named) == [named, BlobRef.of(FILE)]
    assert extractor_blobs(there, named) == [named]
    there.put(MANIFEST)
    with pytest.raises(BlobError, match="is not here"):
        read_extractor(there, named)
    there.put(FILE)
    assert read_extractor(there, named) == FILE
    with pytest.raises(BlobError, match="no extractor's manifest"):
        read_extractor(there, there.put(b"{}"))


def test_a_device_fetches_it_once_and_drops_it_when_nothing_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, monkeypatch)
    blobs = BlobStore(tmp_path / "state" / "blobs")
    named, served = BlobRef.of(MANIFEST), [bundle_of(), pack_model(WEIGHTS), MANIFEST, FILE]
    case.step(UP)
    case.step(task(1, extractor=named))
    case.answer_requests(*served)  # the task fails: there is no program in the bundle
    assert blobs.has(named) and blobs.has(BlobRef.of(FILE))
    case.session.out.clear()
    case.step(Receipt(task=1, accepted=True), task(2, extractor=named))
    case.answer_requests(*served[:2])  # nothing else is asked for
    assert blobs.has(BlobRef.of(FILE))
    case.step(Receipt(task=2, accepted=True), task(3))
    case.answer_requests(*served[:2])
    assert not blobs.has(named) and not blobs.has(BlobRef.of(FILE))


def test_a_release_wants_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path, monkeypatch)
    named = BlobRef.of(MANIFEST)
    wanted = case.agent._installer.wanted(release(1, extractor=named))
    assert named in wanted
    case.agent._blobs.put(MANIFEST)
    assert BlobRef.of(FILE) in case.agent._installer.wanted(release(1, extractor=named))
