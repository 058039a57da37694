"""Which lowering a convolution takes where nothing was measured for it: a rule for each runtime.

The rules are what `bramble-compress tune` came to on one x86_64 core for the convolutions of `small_cnn` and
`residual_cnn` at 64x64, batch 16, and for some more; neither runtime has been timed on a Pi.
`tuning` measures a model's own on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["convolution", "kernel_gradient", "input_gradient"]
Lowering = Literal["conv", "matmul", "rows", "depthwise"]


@dataclass(frozen=True, slots=True)
class HotOp:
    """One computation that there are several lowerings for.

    Attributes:
        kind: the convolution itself or one of its gradients; that with respect to the input is a convolution
            itself where there is no stride.
        picture: [N, H, W, C], padded.
        kernel: [kh, kw, Cin, Cout].
    """

    kind: Kind
    picture: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, int]

    @property
    def key(self) -> str:
        """As a tuned table names it."""
        parts = ("x".join(str(n) for n in part) for part in (self.picture, self.kernel, self.strides))
        return " ".join([self.kind, *parts])


Chooser = Callable[[HotOp], Lowering]


def lowerings_of(op: HotOp) -> tuple[Lowering, ...]:
    """Those that compute it."""
    found: list[Lowering] = ["conv"] if op.kind == "input_gradient" else ["conv", "matmul"]
    equal = op.strides[0] == op.strides[1]
    if op.kernel[0] > 1 and equal:
        found.append("rows")
    if op.kind == "convolution" and op.kernel[2] == 1 and equal:  # TensorFlow's op wants equal strides
        found.append("depthwise")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Rule:
    """Called, it chooses.

    Attributes:
        runtime: that it was measured with.
        machine: that it was measured on.
        single: for a picture of one channel.
        points: for a kernel of one place with a stride, which has rows to pick out and nothing to unroll.
        strided: by kind, for 16 channels or more with a stride.
    """

    runtime: str
    machine: str
    single: Lowering
    points: Lowering
    strided: Mapping[Kind, Lowering]

    def __call__(self, op: HotOp) -> Lowering:
        height, width, inputs, outputs = op.kernel
        choice: Lowering = "conv"
        if height == width == 1:
            choice = self.points if op.kind == "convolution" and max(op.strides) > 1 else "matmul"
        elif op.kind == "convolution" and inputs == 1:
            choice = self.single
        elif max(op.strides) > 1:
            choice = self.strided[op.kind] if inputs >= STRIDED_INPUTS else "conv"
        elif min(inputs, outputs) >= CHANNELS:
            choice = "rows" if height > 1 else "matmul"
        return choice if choice in lowerings_of(op) else "conv"

    def __str__(self) -> str:
        return f"by the rule for {self.runtime}, measured on {self.machine}"


CHANNELS = 8  # from which on widened pictures are copied in runs that are long enough
STRIDED_INPUTS = 16
RULES: Mapping[str, Rule] = {
    rule.runtime: rule
    for rule in (
        Rule(
            "ai-edge-litert",
            "x86_64",
            single="depthwise",
            points="conv",
            strided={"convolution": "rows", "kernel_gradient": "rows", "input_gradient": "rows"},
        ),
        Rule(
            "tflite-runtime",
            "x86_64",
            single="conv",
            points="matmul",
            strided={"convolution": "matmul", "kernel_gradient": "matmul", "input_gradient": "conv"},
        ),
    )
}
by_rule = RULES["ai-edge-litert"]


def rule_for(runtime: str | None) -> Rule:
    """The rule of a runtime, by its name with or without a version; of ai-edge-litert if it is unknown."""
    return RULES.get((runtime or "").partition(" ")[0], by_rule)
