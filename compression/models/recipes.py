"""What can be done to a trained model to make it small, as named values.

A recipe is prune, then cluster, then train with fake quantisation, then convert; each step may be left out.
The ones that are shipped are in `RECIPES`; a user adds one in TOML::

    [recipes.mine]
    summary = "half the weights, 16 values for the rest"
    quantise = "int8"
    [recipes.mine.prune]
    sparsity = 0.5
    [recipes.mine.cluster]
    clusters = 16
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from compression.models.errors import RecipeError
from compression.models.quantisation import PortType, Quantisation
from compression.records import Between, Length, Matches, Record, RecordError, from_plain

MAX_RECIPES_BYTES = 1 << 20

Epochs = Annotated[int, Between(1, 1000)]


@dataclass(frozen=True, slots=True)
class Pruning(Record):
    """Weights of small magnitude become zero (Zhu and Gupta, "To prune, or not to prune", 2017).

    Attributes:
        sparsity: share of each kernel that ends as zero; of "2:4" always a half.
        schedule: "polynomial" rises over the first `ramp` of the steps, "constant" starts there.
        pattern: "2:4" leaves at most 2 of any 4 neighbours along the input channels; "block" removes
            `block` of a dense kernel at a time. What a pattern cannot be cut into stays as it is.
        block: rows and columns.
    """

    sparsity: Annotated[float, Between(0.05, 0.99)] = 0.5
    schedule: Literal["polynomial", "constant"] = "polynomial"
    pattern: Literal["free", "2:4", "block"] = "free"
    block: Annotated[tuple[int, ...], Length(2, 2)] = (1, 4)
    ramp: Annotated[float, Between(0.1, 1.0)] = 0.5
    epochs: Epochs = 10

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.pattern == "2:4" and self.sparsity != 0.5:
            raise RecordError(f"Pruning: 2:4 is a sparsity of 0.5, got {self.sparsity}")
        if not all(1 <= extent <= 64 for extent in self.block):
            raise RecordError(f"Pruning: a block is from 1 to 64 wide, got {self.block}")


@dataclass(frozen=True, slots=True)
class Clustering(Record):
    """Each kernel takes `clusters` values only (Han et al., "Deep Compression", 2016)."""

    clusters: Annotated[int, Between(2, 256)] = 16
    epochs: Epochs = 3


@dataclass(frozen=True, slots=True)
class Aware(Record):
    """Training with fake quantisation (Jacob et al., 2018); zeros and clusters of before are kept."""

    epochs: Epochs = 3


@dataclass(frozen=True, slots=True)
class Recipe(Record):
    """One way to a small file.

    Attributes:
        prune, cluster, aware: steps with training, in this order; None leaves one out.
        quantise: what the converter makes of the result.
        ports: type of input and output; "uint8" takes and gives bytes with the file's own scale.
        calibration: where the activation ranges come from: "pooled" examples, the devices' own reports
            ("federated"), or nowhere ("none"), and then int8 becomes dynamic-range.
        learning_rate: of all training, Adam.
        distil: share of the unchanged model's answers in the targets, against the labels' (Hinton et al.,
            "Distilling the Knowledge in a Neural Network", 2015); above 0 as many mixtures of two examples
            are trained on as examples, with its answers (Beyer et al., "A good teacher is patient and
            consistent", 2022).
    """

    name: Annotated[str, Matches(r"[a-z0-9][a-z0-9_-]{0,63}")]
    summary: Annotated[str, Length(1, 200)]
    quantise: Quantisation = "float32"
    prune: Pruning | None = None
    cluster: Clustering | None = None
    aware: Aware | None = None
    ports: PortType = "float32"
    calibration: Literal["pooled", "federated", "none"] = "pooled"
    learning_rate: Annotated[float, Between(1e-7, 1.0)] = 1e-3
    distil: Annotated[float, Between(0.0, 1.0)] = 1.0

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.aware is not None and self.quantise != "int8":
            raise RecordError(f"recipe {self.name!r}: aware trains for int8, and quantise is {self.quantise}")
        if self.ports != "float32" and (self.quantise != "int8" or self.calibration == "none"):
            raise RecordError(f"recipe {self.name!r}: ports of {self.ports} need int8 with calibration")
        if self.quantise == "int16x8" and self.calibration != "pooled":
            raise RecordError(f'recipe {self.name!r}: int16x8 needs calibration = "pooled"')
        if self.aware is not None and self.calibration == "federated":
            raise RecordError(f"recipe {self.name!r}: aware learns its ranges, and none are reported")

    @property
    def trains(self) -> bool:
        """Whether it needs labelled examples."""
        return any(step is not None for step in (self.prune, self.cluster, self.aware))

    @property
    def needs_ranges(self) -> bool:
        """Whether the converter asks for activation ranges, which come from examples."""
        return self.calibration != "none" and self.quantise in ("int8", "int16x8")


_EIGHTY = Pruning(sparsity=0.8)
_SHIPPED = (
    Recipe("float32", "as trained"),
    Recipe("float16", "weights rounded to half precision", "float16"),
    Recipe("dynamic", "int8 weights, activations in floating point", "dynamic"),
    Recipe("int8", "int8 weights and activations, float32 in and out", "int8"),
    Recipe("int8-uint8", "int8 that takes and gives bytes", "int8", ports="uint8"),
    Recipe("int8-federated", "int8 with the devices' activation ranges", "int8", calibration="federated"),
    Recipe("int8-uncalibrated", "int8 without activation ranges", "int8", calibration="none"),
    Recipe("int16x8", "int8 weights, int16 activations", "int16x8"),
    Recipe("qat", "trained with fake quantisation, int8", "int8", aware=Aware()),
    Recipe("pruned80", "80 % zeros, float32", prune=_EIGHTY),
    Recipe("pruned80-int8", "80 % zeros, int8", "int8", prune=_EIGHTY),
    Recipe(
        "pruned50-constant-int8",
        "half zeros from the first step on, int8",
        "int8",
        prune=Pruning(sparsity=0.5, schedule="constant", epochs=5),
    ),
    Recipe(
        "pruned-2-4-int8",
        "2 of 4 neighbours zero, int8",
        "int8",
        prune=Pruning(sparsity=0.5, pattern="2:4", epochs=5),
    ),
    Recipe(
        "pruned-block-int8",
        "80 % of the dense kernels' 1x4 blocks zero, int8",
        "int8",
        prune=Pruning(sparsity=0.8, pattern="block"),
    ),
    Recipe("clustered16-int8", "16 values a kernel, int8", "int8", cluster=Clustering()),
    Recipe(
        "pruned80-clustered16-int8",
        "80 % zeros, 16 values for the rest, int8",
        "int8",
        prune=_EIGHTY,
        cluster=Clustering(),
    ),
    Recipe("pqat", "80 % zeros kept through fake quantisation", "int8", prune=_EIGHTY, aware=Aware()),
    Recipe(
        "cqat",
        "16 values a kernel kept through fake quantisation",
        "int8",
        cluster=Clustering(),
        aware=Aware(),
    ),
    Recipe(
        "pcqat",
        "80 % zeros and 16 values kept through fake quantisation",
        "int8",
        prune=_EIGHTY,
        cluster=Clustering(),
        aware=Aware(),
    ),
)  # fmt: skip - a line a recipe reads as the table it is
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _SHIPPED}


def read_recipes(path: Path) -> dict[str, Recipe]:
    """A user's recipes, by name.

    Raises:
        RecipeError: not TOML, no table ``[recipes.NAME]``, or a value that is not allowed.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_RECIPES_BYTES:
            raise RecipeError(f"{path}: {len(data)} bytes of recipes; the limit is {MAX_RECIPES_BYTES}")
        tables = tomllib.loads(data.decode()).get("recipes")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RecipeError(f"{path} is not TOML: {exc}") from exc
    if not isinstance(tables, dict) or not tables:
        raise RecipeError(f"{path} holds no recipe: begin one with [recipes.NAME]")
    return {name: _recipe(name, table, path) for name, table in tables.items()}


def choose_recipes(names: Iterable[str], known: Mapping[str, Recipe]) -> list[Recipe]:
    """Recipes by name; raise `RecipeError` for one that is unknown."""
    names = list(names)
    if missing := next((name for name in names if name not in known), None):
        raise RecipeError(f"no recipe {missing!r}: use {', '.join(known)}, or add it in a file of --recipes")
    return [known[name] for name in names]


def _recipe(name: str, table: Any, path: Path) -> Recipe:
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: recipes.{name} is not a table")
    try:
        return from_plain(Recipe, {"summary": f"from {path.name}", **table, "name": name}, f"recipes.{name}")
    except RecordError as exc:
        raise RecipeError(f"{path}: {exc}") from exc
