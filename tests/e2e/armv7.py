"""The 32-bit check: the trainer, the agent's tests and the codec's on armv7l under user-mode emulation.

Bookworm armhf in a folder, Debian's numpy, Pillow and psutil (the package index has no armv7l wheels of
them), the index's tflite-runtime and cryptography. A training program compiled here is run there, and its
losses, weights and answers are compared with this machine's.

python -m tests.e2e.armv7
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.e2e.cache import Cache
from tests.e2e.debian import Debian, enable_emulation, root_tar
from tests.e2e.shell import RigError, require_programs, run
from tests.e2e.steps import Record, child_cpu_s

Outcome: TypeAlias = dict[str, npt.NDArray[np.float32]]

LABEL = "emulated (qemu user mode, armv7l)"
PROJECT = Path(__file__).resolve().parents[2]
ROOT = Debian(
    "bookworm",
    "armhf",
    ("python3", "python3-numpy", "python3-pil", "python3-psutil", "python3-cffi-backend"),
)
WHEELS = (
    "tflite-runtime==2.14.0",
    "cryptography>=42",
    "paho-mqtt>=2.2,<3",
    "pytest>=8",
    "pytest-timeout>=2.3",
    *("hypothesis>=6.100", "sortedcontainers", "iniconfig", "pluggy", "packaging", "pygments"),
)
PLATFORMS = ("manylinux_2_34_armv7l", "manylinux_2_31_armv7l", "manylinux_2_17_armv7l", "any")
SITE = "opt/site"
WORKSTATION = re.compile(
    r"^\s*(from|import) (tensorflow|tf_keras|compression\.(trainable|models)|broker_server)\b", re.M
)
TESTED = ("tests/edge_client/test_*.py", "tests/compression/test_updates_*.py")
LEFT_OUT = (
    "test_wire.py::test_evaluation_sums_add_up_to_the_pooled_data",  # needs scikit-learn
    "test_wire_docs.py::test_every_constant_has_the_value_that_the_code_has",  # looks into the server's half
    "test_data_statistics.py::test_thirty_columns_fit_a_message",  # minutes, with numpy 1.24's add.at
)
SLOWEST_TEST_S, TESTS_S = 1200, 3600.0
RATE, SEED, STEPS, BATCH = 0.01, 3, 10, 8
TOLERANCE = 2e-4  # float32 arithmetic in another order, over ten steps


def main() -> int:
    """Run the check; 0 where everything held."""
    parser = argparse.ArgumentParser(prog="make e2e-armv7", description=__doc__)
    parser.add_argument("--cache", type=Path, default=PROJECT / ".e2e-cache")
    arguments = parser.parse_args()
    record = Record(LABEL)
    try:
        require_programs()
        check(Cache(arguments.cache), record)
    except RigError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    finally:
        record.facts["cpu_s"] = child_cpu_s()
        record.write(arguments.cache / "armv7.json")
        print(record.text())
    return 0


def check(cache: Cache, record: Record) -> None:
    """Everything in turn; raises `RigError` at the first thing that does not hold."""
    with record.step("root file system (kept)"):
        root = get_root(cache)
        enable_emulation(ROOT.architecture)
    with record.step("the project's sources"):
        _copy_sources(root / "srv/bramble")
    with record.step("compile a training program here") as step:
        step.note = _compile(root / "srv/work")
    with record.step("train it here"):
        here = _train([sys.executable], root / "srv/work", PROJECT)
    with record.step("train it there") as step:
        there = _train(_inside(root), root / "srv/work", Path("/srv/bramble"), Path("/srv/work"))
        step.note = _compare(here, there)
    with record.step("the agent's tests there") as step:
        step.note = _run_tests(root)


def get_root(cache: Cache) -> Path:
    """The root file system as a folder, with the wheels unpacked."""
    tar = root_tar(cache, ROOT)

    def build(path: Path) -> None:
        path.mkdir()
        run("tar", "-xf", tar, "-C", path)
        for wheel in _download(path / "opt/wheels"):
            zipfile.ZipFile(wheel).extractall(path / SITE)

    return cache.get("armv7-root", [asdict(ROOT), WHEELS, PLATFORMS], build)


def _download(folder: Path) -> list[Path]:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    abis = ("--abi", "cp311", "--abi", "abi3", "--abi", "none")
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            folder,
        ),
        *("--python-version", "3.11", "--implementation", "cp", *abis, *platforms, *WHEELS),
    )
    return sorted(folder.glob("*.whl"))


def _copy_sources(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    names = run("git", "-C", PROJECT, "ls-files", "*.py", "*.toml", "*.md").splitlines()
    for name in names:
        if (PROJECT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)


def _compile(folder: Path) -> str:
    """Bundle, weights and batches, as `runtime_worker` reads them; the bundle's size."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    from broker_server.models import build_model
    from compression.spec import ImageInput
    from compression.trainable import compile_trainable

    size = ImageInput(height=28, width=28)
    model = build_model("small_cnn", size.shape, 2)
    # Not Adam: it takes a whole step along a gradient of nothing but rounding.
    result = compile_trainable(
        model, name="small_cnn", input=size, classes=("no", "yes"), batch_size=BATCH, optimizer="momentum"
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "bundle").write_bytes(result.bundle.to_bytes())
    rng = np.random.default_rng(SEED)
    weights: dict[str, Any] = dict(result.weights)
    np.savez(folder / "weights.npz", **weights)
    np.savez(
        folder / "batches.npz",
        inputs=rng.random((STEPS, BATCH, 28, 28, 1), dtype=np.float32),
        labels=rng.integers(0, 2, (STEPS, BATCH)).astype(np.int32),
        weights=np.ones((STEPS, BATCH), np.float32),
    )
    return f"small_cnn, {len(result.bundle.tflite)} bytes"


def _train(python: list[str], folder: Path, project: Path, inside: Path | None = None) -> Outcome:
    worker = project / "tests/compression/runtime_worker.py"
    command = [*python, str(worker), str(inside or folder), str(RATE), str(SEED)]
    run(*command, env={**os.environ, "PYTHONPATH": f"{project}:/{SITE}"}, timeout_s=900.0)
    return dict(np.load(folder / "outcome.npz"))


def _compare(here: Outcome, there: Outcome) -> str:
    peak = float(there.pop("peak_rss_mb"))
    here.pop("peak_rss_mb")
    worst = max(float(np.abs(here[name] - there[name]).max()) for name in here)
    if here.keys() != there.keys() or not worst <= TOLERANCE:
        raise RigError(f"armv7l trains differently: the largest difference is {worst:g}")
    return f"{STEPS} steps, largest difference {worst:.1e}, peak {peak:.0f} MB"


def _inside(root: Path) -> list[str]:
    """Begins a command line that runs in the root file system, with this machine's /proc, /sys and /dev.

    They are mounted in a namespace of the command's own, so nothing is left behind.
    """
    mounts = " && ".join(f'mount --rbind /{name} "$0/{name}"' for name in ("proc", "sys", "dev"))
    variables = f"PATH=/usr/bin:/bin PYTHONPATH=/srv/bramble:/{SITE}"
    script = f'{mounts} && cd "$0" && exec chroot "$0" /usr/bin/env -i -C /srv/bramble {variables} "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(root), "/usr/bin/python3"]


def _run_tests(root: Path) -> str:
    """The device's tests and the codec's; those that need Keras to make their model are left out by name."""
    tests = sorted(path for pattern in TESTED for path in PROJECT.glob(pattern))
    runnable = {path.relative_to(PROJECT): path.read_text() for path in tests if not _needs_keras(path)}
    # tflite-runtime switches subnormal numbers off for its whole process, which hypothesis refuses.
    drawn = [path for path, text in runnable.items() if "hypothesis" in text]
    others = [path for path in runnable if path not in drawn]
    log = root.parent / "armv7-tests.log"
    log.unlink(missing_ok=True)
    ends = [_pytest(root, group, log) for group in (others, drawn)]
    return f"{len(runnable)} of {len(tests)} files: {'; '.join(ends)}"


def _needs_keras(path: Path) -> bool:
    """Whether a test's file, or a module of cases that it imports, imports what only a workstation has."""
    text = path.read_text()
    cases = re.findall(r"from (tests\.[\w.]+) import", text)
    return bool(WORKSTATION.search(text)) or any(_needs_keras(_source(case)) for case in cases)


def _source(module: str) -> Path:
    return PROJECT / f"{module.replace('.', '/')}.py"


def _pytest(root: Path, tests: list[Path], log: Path) -> str:
    """Run some test files there; the last line that pytest says."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={SLOWEST_TEST_S}"]
    left_out = [word for name in LEFT_OUT for word in ("--deselect", f"tests/edge_client/{name}")]
    command = [*_inside(root), *words, *left_out, *map(str, tests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TESTS_S, check=False)
    with log.open("a") as file:
        file.write(done.stdout + done.stderr)
    last = (done.stdout.strip() or done.stderr.strip() or "nothing said").splitlines()[-1]
    if done.returncode:
        raise RigError(f"{last}; all of it: {log}")
    return last


if __name__ == "__main__":
    sys.exit(main())
