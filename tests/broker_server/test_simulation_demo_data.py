"""The demonstration's data: who gets what, for every kind of data set."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker_server.simulation import DemoData, SimulationError, prepare_demo_data
from compression.spec import ImageInput
from edge_client.data import (
    DataError,
    DataSource,
    LocalData,
    column_statistics,
    load_data,
    summarise,
    table_input,
)

GREY = ImageInput(height=4, width=4)


def load(demo: DemoData, source: DataSource, fraction: float = 0.0) -> LocalData:
    input = GREY
    if demo.kind == "table":
        input = table_input(column_statistics(demo.train, demo.columns))
    return load_data(source, input, demo.classes, validation_fraction=fraction, seed=0)


def keys(data: LocalData) -> list[bytes]:
    """Something that tells examples apart."""
    return [data.inputs[i].tobytes() + bytes([data.labels[i]]) for i in data.train_index]


def server_sources(demo: DemoData) -> Iterator[DataSource]:
    yield demo.test
    yield from (source for source in (demo.calibration, demo.further_test) if source)


def assert_dealt_once(demo: DemoData) -> None:
    dealt = [key for client in demo.clients for key in keys(load(demo, client.source))]
    assert sorted(dealt) == sorted(keys(load(demo, demo.train)))
    seen = set(dealt)
    for source in server_sources(demo):
        kept = set(keys(load(demo, source)))
        assert kept
        assert not kept & seen
        seen |= kept
    for client in demo.clients:
        data = load(demo, client.source)
        assert data.counts(data.train_index) == client.counts


def distinct_pictures(count: int) -> np.ndarray:
    pictures = np.zeros((count, 4, 4), np.uint8)
    pictures[:, 0, 0], pictures[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return pictures


def folder(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    pictures = distinct_pictures(start + sum(counts.values()))[start:]
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(pictures[number]).save(root / label / f"{number}.png")
        pictures = pictures[count:]
    return root


def test_wisconsin_is_dealt_as_csv(tmp_path: Path) -> None:
    demo = prepare_demo_data(
        "wisconsin", devices=4, partition="sizes:35,25,22,18", directory=tmp_path, seed=1
    )
    assert demo.classes == ("benign", "malignant")  # the positive class is the second
    assert (demo.kind, len(demo.columns)) == ("table", 30)
    assert [client.name for client in demo.clients] == ["device-1", "device-2", "device-3", "device-4"]
    assert demo.clients[0].source == DataSource("table", tmp_path / "device-1" / "data" / "rows.csv")
    assert_dealt_once(demo)
    sizes = [sum(client.counts.values()) for client in demo.clients]
    np.testing.assert_allclose(np.array(sizes) / sum(sizes), [0.35, 0.25, 0.22, 0.18], atol=0.005)
    test = load(demo, demo.test)
    assert test.counts(test.train_index) == {"benign": 71, "malignant": 42}  # 20 % of 357 and 212
    assert "113 examples" in demo.description
    assert sum(sizes) + 113 + 29 == 569


def test_wisconsin_statistics_are_those_of_the_pooled_rows(tmp_path: Path) -> None:
    demo = prepare_demo_data("wisconsin", devices=4, partition="dirichlet:0.5", directory=tmp_path, seed=2)
    parts = [column_statistics(client.source, demo.columns) for client in demo.clients]
    federated, pooled = reduce(add, parts), load(demo, demo.train).inputs
    assert federated.rows == len(pooled)
    input = table_input(federated)
    np.testing.assert_allclose(input.center, pooled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(input.spread, pooled.std(axis=0), rtol=1e-12)
    for column, values in zip(federated.columns, pooled.T, strict=True):
        for fraction in (0.25, 0.5, 0.75):
            true = np.sort(values)[int(fraction * (len(values) - 1))]
            error = abs(column.sketch.quantile(fraction) - true)
            assert error <= (column.sketch.relative_error + 1e-9) * abs(true)


def test_a_folder_is_dealt_as_links(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans", {"no": 60, "yes": 90})
    (root / "yes" / "broken.png").write_bytes(b"")
    demo = prepare_demo_data(
        f"folder:{root}", devices=3, partition="dirichlet:0.1", directory=tmp_path / "demo", seed=0
    )
    linked = list((tmp_path / "demo" / "device-1" / "data").glob("*/*.png"))
    assert linked
    assert all(file.is_symlink() for file in linked)
    skipped = [summarise(c.source, validation_fraction=0.2, seed=0).skipped for c in demo.clients]
    skipped += [load(demo, source).skipped for source in server_sources(demo)]
    assert sum(skipped) == 1


def test_every_picture_of_a_folder_goes_to_one_place(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans", {"no": 60, "yes": 90})
    demo = prepare_demo_data(f"folder:{root}", devices=3, partition="iid", directory=tmp_path / "d", seed=0)
    assert_dealt_once(demo)
    assert demo.calibration is not None
    assert demo.further_test is None


def test_a_client_with_one_class_still_says_there_are_two(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans", {"no": 40, "yes": 40})
    for seed in range(20):
        demo = prepare_demo_data(
            f"folder:{root}", devices=4, partition="dirichlet:0.01", directory=tmp_path / "d", seed=seed
        )
        alone = [client for client in demo.clients if 0 in client.counts.values()]
        if alone:
            summary = summarise(alone[0].source, validation_fraction=0.2, seed=0)
            assert sorted(summary.counts) == ["no", "yes"]
            assert 0 in summary.counts.values()
            assert summary.examples >= 1
            return
    pytest.fail("no client with one class in 20 deals at alpha 0.01")


def test_given_splits_of_a_folder_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    folder(root / "train", {"no": 40, "yes": 50})
    folder(root / "val", {"no": 4, "yes": 4}, start=100)
    folder(root / "test", {"no": 10, "yes": 20}, start=200)
    demo = prepare_demo_data(f"folder:{root}", devices=2, directory=tmp_path / "demo", seed=0)
    assert_dealt_once(demo)
    assert len(load(demo, demo.train).labels) == 90
    assert len(load(demo, demo.test).labels) == 30
    assert demo.calibration is not None
    assert len(load(demo, demo.calibration).labels) == 8
    assert "test split evaluates" in demo.description


def test_a_list_is_dealt_as_lists(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans", {"a/b": 50, "..": 0, "yes": 50})
    rows = [(f"a/b/{i}.png", "a/b") for i in range(50)] + [(f"yes/{i}.png", "..") for i in range(50)]
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    demo = prepare_demo_data(f"csv:{root / 'list.csv'}", devices=2, directory=tmp_path / "demo", seed=0)
    assert demo.classes == ("..", "a/b")  # names that would be dangerous as folders
    assert demo.clients[0].source.kind == "csv"
    assert_dealt_once(demo)


def test_an_npz_is_dealt_in_one_pass(tmp_path: Path) -> None:
    pictures, labels = distinct_pictures(400), np.arange(400) % 2
    np.savez(tmp_path / "scans.npz", x=pictures, y=labels)
    demo = prepare_demo_data(
        f"npz:{tmp_path / 'scans.npz'}",
        devices=3,
        partition="dirichlet:1",
        directory=tmp_path / "demo",
        seed=0,
    )
    assert_dealt_once(demo)
    assert demo.further_test is None
    for client in demo.clients:
        with np.load(client.source.path, allow_pickle=False) as part:
            numbers = part["images"][:, 0, 0] + 256 * part["images"][:, 0, 1].astype(int)
            np.testing.assert_array_equal(part["labels"], labels[numbers])


def test_the_validation_split_of_an_npz_evaluates(tmp_path: Path) -> None:
    pictures, labels = distinct_pictures(300), np.arange(300) % 2
    cuts = {"train": slice(0, 200), "val": slice(200, 250), "test": slice(250, 300)}
    arrays = {f"{name}_images": pictures[cut] for name, cut in cuts.items()}
    arrays |= {f"{name}_labels": labels[cut, None] for name, cut in cuts.items()}
    np.savez_compressed(tmp_path / "scans.npz", **arrays)
    demo = prepare_demo_data(f"npz:{tmp_path / 'scans.npz'}", devices=2, directory=tmp_path / "d", seed=0)
    assert_dealt_once(demo)
    np.testing.assert_array_equal(load(demo, demo.test).inputs[..., 0], pictures[200:250])
    assert demo.further_test is not None
    np.testing.assert_array_equal(load(demo, demo.further_test).inputs[..., 0], pictures[250:])
    assert "validation split evaluates, its test split is left alone" in demo.description


def test_a_table_keeps_every_bit(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 2))
    lines = [f"{a!r},{b!r},{i % 2}" for i, (a, b) in enumerate(rows.tolist())]
    (tmp_path / "rows.csv").write_text("\n".join(["a,label,group", *lines]))
    demo = prepare_demo_data(
        f"table:{tmp_path / 'rows.csv'}", devices=2, directory=tmp_path / "demo", seed=0, label_column="group"
    )
    assert demo.columns == ("a", "label")
    assert_dealt_once(demo)
    dealt = np.concatenate([load(demo, client.source).inputs for client in demo.clients])
    assert set(map(tuple, dealt.tolist())) <= set(map(tuple, rows.tolist()))


def hospitals(root: Path) -> Path:
    folder(root / "hospital_1" / "train", {"no": 20, "yes": 10})
    folder(root / "hospital_1" / "val", {"no": 3, "yes": 3}, start=50)
    folder(root / "hospital_1" / "test", {"no": 2, "yes": 2}, start=60)
    folder(root / "hospital 2" / "train", {"no": 5, "yes": 25}, start=70)
    folder(root / "test", {"no": 8, "yes": 9}, start=120)
    return root


def test_hospitals_are_read_where_they_lie(tmp_path: Path) -> None:
    root = hospitals(tmp_path / "fleet")
    demo = prepare_demo_data(f"hospitals:{root}", directory=tmp_path / "demo", seed=0)
    assert [(client.name, client.source) for client in demo.clients] == [
        ("hospital-2", DataSource("folder", root / "hospital 2")),
        ("hospital_1", DataSource("folder", root / "hospital_1")),
    ]
    assert [dict(client.counts) for client in demo.clients] == [{"no": 5, "yes": 25}, {"no": 23, "yes": 13}]
    assert len(load(demo, demo.train).labels) == 60  # training pictures only
    assert len(load(demo, demo.test).labels) == 17
    assert demo.calibration is None
    folder(root / "val", {"no": 4, "yes": 4}, start=150)
    demo = prepare_demo_data(f"hospitals:{root}", devices=2, partition="hospital", directory=tmp_path, seed=0)
    assert demo.calibration == DataSource("folder", root / "val")


def test_hospitals_that_cannot_be_used(tmp_path: Path) -> None:
    root = hospitals(tmp_path / "fleet")

    def told(**asked: object) -> str:
        with pytest.raises(SimulationError) as caught:
            prepare_demo_data(f"hospitals:{root}", directory=tmp_path / "demo", seed=0, **asked)  # type: ignore[arg-type]
        return str(caught.value)

    assert "3 devices for 2 hospitals" in told(devices=3)
    assert "partition 'iid'" in told(partition="iid")
    (root / "test").rename(root / "hospital+2")
    assert "no global test folder" in told()
    folder(root / "test", {"no": 2, "yes": 2})
    assert "'hospital-2' on the wire" in told()
    with pytest.raises(SimulationError, match="no such folder"):
        prepare_demo_data(f"hospitals:{tmp_path / 'nowhere'}", directory=tmp_path / "demo", seed=0)
    (tmp_path / "lonely" / "hospital_1").mkdir(parents=True)
    with pytest.raises(SimulationError, match="holds 1 hospitals"):
        prepare_demo_data(f"hospitals:{tmp_path / 'lonely'}", directory=tmp_path / "demo", seed=0)


def test_an_earlier_deal_is_replaced_and_originals_stay(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans", {"no": 40, "yes": 40})
    for seed in (0, 1):
        demo = prepare_demo_data(f"folder:{root}", devices=2, directory=tmp_path / "demo", seed=seed)
    assert_dealt_once(demo)
    assert len(list(root.glob("*/*.png"))) == 80


def test_the_same_seed_deals_the_same(tmp_path: Path) -> None:
    def counts(seed: int) -> list[dict[str, int]]:
        how = {"devices": 3, "partition": "dirichlet:0.5", "directory": tmp_path, "seed": seed}
        return [dict(client.counts) for client in prepare_demo_data("wisconsin", **how).clients]  # type: ignore[arg-type]

    assert counts(5) == counts(5)
    assert counts(5) != counts(6)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    prepare_demo_data(
        "wisconsin", devices=2, directory=tmp_path, seed=0, progress=lambda *step: told.append(step)
    )
    assert told[0][:2] == ("dealing rows", 0)
    assert told[-1][1] == told[-1][2]


@pytest.mark.parametrize("dataset", ["", "iris", "folder", "folder:", "zip:x", "hospitals:", "wisconsin:"])
def test_unknown_data_sets(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(SimulationError, match="expected wisconsin, folder:PATH"):
        prepare_demo_data(dataset, directory=tmp_path / "demo", seed=0)
    assert not (tmp_path / "demo").exists()


def test_data_sets_that_cannot_be_used_leave_nothing_behind(tmp_path: Path) -> None:
    folder(tmp_path / "one", {"yes": 20})
    folder(tmp_path / "small", {"no": 2, "yes": 2})
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "one.npz", images=distinct_pictures(20), labels=np.zeros(20, np.int64))
    (tmp_path / "nan.csv").write_text("a,label\n1,x\nNaN,y\n")
    for dataset, told in {
        f"folder:{tmp_path / 'one'}": "one class only",
        f"folder:{tmp_path / 'empty'}": "no class folders",
        f"folder:{tmp_path / 'small'}": "too few",
        f"npz:{tmp_path / 'one.npz'}": "one class only",
        f"table:{tmp_path / 'nan.csv'}": "row 3, column 'a' is missing",
    }.items():
        with pytest.raises(DataError, match=told):
            prepare_demo_data(dataset, devices=4, directory=tmp_path / "demo", seed=0)
    with pytest.raises(SimulationError, match="partition 'odd'"):
        prepare_demo_data("wisconsin", partition="odd", directory=tmp_path / "demo", seed=0)
    assert not (tmp_path / "demo").exists()


def test_splits_of_different_shapes_cannot_be_dealt(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "scans.npz",
        train_images=distinct_pictures(100),
        train_labels=np.arange(100) % 2,
        val_images=np.zeros((10, 5, 5), np.uint8),
        val_labels=np.arange(10) % 2,
    )
    with pytest.raises(SimulationError, match="different shapes"):
        prepare_demo_data(f"npz:{tmp_path / 'scans.npz'}", devices=2, directory=tmp_path / "demo", seed=0)


def test_a_file_cut_short_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from broker_server.simulation import dealing

    np.savez(tmp_path / "scans.npz", images=distinct_pictures(100), labels=np.arange(100) % 2)

    def failing(_entry: object) -> Iterator[np.ndarray]:
        yield distinct_pictures(100)[:40]
        raise DataError("ends early")

    monkeypatch.setattr(dealing, "blocks", failing)
    with pytest.raises(DataError, match="ends early"):
        prepare_demo_data(f"npz:{tmp_path / 'scans.npz'}", devices=2, directory=tmp_path / "demo", seed=0)
    assert [file for file in (tmp_path / "demo").rglob("*") if file.is_file()] == []


def test_real_pneumonia_arrays(medical_data: Path, tmp_path: Path) -> None:
    file = medical_data / "pneumoniamnist" / "pneumoniamnist.npz"
    demo = prepare_demo_data(f"npz:{file}", devices=3, partition="dirichlet:0.5", directory=tmp_path, seed=0)
    assert demo.classes == ("0", "1")
    test = load(demo, demo.test)
    assert test.counts(test.train_index) == {"0": 135, "1": 389}
    assert sum(sum(client.counts.values()) for client in demo.clients) == 4708 - 128


def test_real_brain_scans(medical_data: Path, tmp_path: Path) -> None:
    demo = prepare_demo_data(f"folder:{medical_data / 'brain-mri-tumor'}", directory=tmp_path, seed=0)
    assert len(demo.clients) == 4
    sizes = [len(load(demo, client.source).train_index) for client in demo.clients]
    kept = [len(load(demo, source).train_index) for source in server_sources(demo)]
    assert sum(sizes) + sum(kept) == 228
