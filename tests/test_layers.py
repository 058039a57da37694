"""Imports point one way, lazy ones included; what a device loads has no TensorFlow in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("benchmarks", "broker_server", "compression", "edge_client", "provisioning")

# What every room may import: errors, the frame of the programs, records.
COMMON = tuple(f"compression.{name}" for name in ("command_line", "errors", "progress", "records"))
# Commands whose work is done in rooms above: parts of the program, which no library may import.
UPWARD = ("compression.compare_commands", "compression.recipe_commands")
# What each room may import of ours besides itself. The longest matching prefix counts. docs/architecture.md.
ALLOWED = {
    "compression": (),
    **dict.fromkeys(UPWARD, ("compression", "benchmarks")),
    "compression.updates": (*COMMON, "compression.spec"),
    "edge_client": (
        *COMMON,
        *(f"compression.{name}" for name in ("sparsity", "spec", "updates", "weights_file")),
        *(f"compression.models.{name}" for name in ("errors", "tflite_file")),
    ),
    "edge_client.wire": (*COMMON, "compression.spec", "compression.updates"),
    "provisioning": (
        *COMMON,
        "compression.text_table",
        *(f"edge_client.{room}" for room in ("config", "enrolment", "files", "session", "upgrade", "wire")),
    ),
    "broker_server": ("compression", "edge_client", "provisioning.pki", "provisioning.enrolment"),
    "benchmarks": ("broker_server", "compression", "edge_client", "provisioning"),
}
# The server uses the device's library, never the device's program.
DEVICE_PROGRAM = ("agent", "cli", "hello", "offering", "rollout", "state", "tasks", "troubles", "uplink")
FORBIDDEN = {"broker_server": tuple(f"edge_client.{name}" for name in (*DEVICE_PROGRAM, "work"))}
HEAVY = ("tensorflow", "tf_keras", "keras", "sklearn", "matplotlib", "rich")
NO_PICKLE = ("pickle", "dill", "joblib", "shelve", "marshal")


def sources() -> list[tuple[str, Path]]:
    """Every module of ours with its dotted name."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere in it, type-checking blocks apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


every_module = pytest.mark.parametrize(
    ("module", "path"), sources(), ids=lambda value: value if isinstance(value, str) else ""
)


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


@pytest.mark.parametrize(
    ("module", "path"), sources(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_one_way(module: str, path: Path) -> None:
    room = max((room for room in ALLOWED if within(module, room)), key=len)
    top = module.partition(".")[0]
    for imported in imports(path):
        if imported.partition(".")[0] not in PACKAGES:
            continue
        own = within(imported, room) or within(imported, top if room == top else room)
        assert own or any(within(imported, allowed) for allowed in ALLOWED[room]), (
            f"{module} imports {imported}"
        )
        assert not any(within(imported, no) for no in FORBIDDEN.get(top, ())), f"{module} imports {imported}"


@every_module
def test_only_the_program_looks_up(module: str, path: Path) -> None:
    if module not in ("compression.cli", *UPWARD):
        found = [imported for imported in imports(path) if any(within(imported, name) for name in UPWARD)]
        assert not found, f"{module} imports {found}"


@pytest.mark.parametrize(
    ("module", "path"), sources(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_devices_carry_nothing_heavy_and_nobody_pickles(module: str, path: Path) -> None:
    for imported in imports(path):
        top = imported.partition(".")[0]
        assert top not in NO_PICKLE, f"{module} imports {imported}"
        if within(module, "edge_client") or within(module, "compression.updates"):
            assert top not in HEAVY, f"{module} imports {imported}"


@pytest.mark.parametrize("module", ["edge_client.agent", "edge_client.cli", "edge_client.training"])
def test_a_fresh_interpreter_loads_no_tensorflow(module: str) -> None:
    code = (
        f"import {module}, sys; from edge_client.runtime import runtime_name; runtime_name(); "
        f"print([name for name in {(*HEAVY, 'broker_server')} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_top_level_is_as_promised() -> None:
    """No other top-level package: the six folders and nothing else with Python in it."""
    with_python = {
        path.parts[len(ROOT.parts)]
        for path in ROOT.rglob("*.py")
        if not path.parts[len(ROOT.parts)].startswith((".", "build"))
    }
    assert with_python == {*PACKAGES, "tests", "setup.py"}
