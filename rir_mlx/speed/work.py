"""What a stage has to compute and to read at least: floating-point operations and bytes, from shapes alone.

A product of matrices takes 2 operations a weight and token. Under causal attention a token meets those before it, in 4
operations a number of its heads. The backward pass of a frozen weight takes as many again, for the gradient of its
input, and of a trained one twice as many. Nothing is counted that could be left out: no padding, no recomputation, no
prefix that rows share more than once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rir_mlx.backends.base import Batch
from rir_mlx.backends.label_tree import OptionTree
from rir_mlx.backends.limits import Limits
from rir_mlx.models.adapter_spec import LINEAR_KEYS, AdapterSpec, adapted_layers
from rir_mlx.models.families import ModelShape
from rir_mlx.prompting.examples import TrainingExample


@dataclass(frozen=True)
class Work:
    """Operations, and bytes that pass between memory and processor."""

    flops: float
    bytes: float

    def seconds(self, limits: Limits) -> float:
        """The least time it takes where arithmetic and memory work side by side."""
        return max(self.flops / limits.flops, self.bytes / limits.bandwidth)

    def limit(self, limits: Limits) -> str:
        """Which of the two it waits for."""
        return "arithmetic" if self.flops / limits.flops >= self.bytes / limits.bandwidth else "bandwidth"


@dataclass(frozen=True)
class Sizes:
    """A model's shape, its weights in bytes, and the bytes of a number."""

    shape: ModelShape
    weight_bytes: int
    width: int

    def layer_weights(self) -> int:
        """Weights of the linear modules of a layer."""
        return sum(inputs * outputs for inputs, outputs in self.modules())

    def modules(self) -> list[tuple[int, int]]:
        shape = self.shape
        queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
        hidden, middle = shape.hidden, shape.middle
        return [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden), *[(hidden, middle)] * 3]

    @property
    def head(self) -> int:
        return self.shape.hidden * self.shape.vocabulary

    def cached(self, tokens: float) -> float:
        """Bytes of the keys and values of so many tokens."""
        shape = self.shape
        return 2 * tokens * shape.layers * shape.key_value_heads * shape.head_width * self.width


def forward(sizes: Sizes, rows: Sequence[int], before: int, projected: int) -> Work:
    """Rows of so many tokens that run together after `before` that they share, with `projected` positions projected to
    the vocabulary."""
    shape, tokens = sizes.shape, sum(rows)
    pairs = sum(length * before + length**2 / 2 for length in rows)
    layer = 2 * sizes.layer_weights() * tokens + 4 * shape.heads * shape.head_width * pairs
    read = sizes.weight_bytes + sizes.cached(before + tokens)
    return Work(shape.layers * layer + 2 * sizes.head * projected, read)


def decoding(sizes: Sizes, rows: int, before: int, own: float) -> Work:
    """One more token of each row, after a prefix of `before` tokens and `own` tokens of each row's own."""
    shape = sizes.shape
    layer = 2 * sizes.layer_weights() + 4 * shape.heads * shape.head_width * (before + own)
    return Work(rows * (shape.layers * layer + 2 * sizes.head), sizes.weight_bytes + sizes.cached(before + rows * own))


def writing(sizes: Sizes, own: Sequence[int], written: Sequence[int], before: int, most: int) -> list[Work]:
    """Rows of `own` tokens after a prefix of `before`, each continued with as many as `written` says, at most `most`
    rows at a time: the prompts, then all steps, no fewer than the longest row has, or all tokens at `most` a step. A
    row's first token comes from its prompt."""
    prompts = [forward(sizes, [before], 0, 0), forward(sizes, own, before, len(own))]
    tokens = sum(written) - len(written)
    if not tokens:
        return prompts
    seen = sum(length * (count - 1) + count * (count - 1) / 2 for length, count in zip(own, written, strict=True))
    steps = max(max(written) - 1, -(-tokens // most))
    read = steps * (sizes.weight_bytes + sizes.cached(before)) + sizes.cached(seen)
    return [*prompts, Work(decoding(sizes, tokens, before, seen / tokens).flops, read)]


def scoring(sizes: Sizes, prompts: Sequence[int], before: int, options: Sequence[tuple[int, ...]]) -> Work:
    """The log-probabilities of all options after prompts of so many tokens."""
    tree = OptionTree.of(options)
    projected = len(set(tree.sources.tolist()))
    return forward(sizes, [length + tree.nodes for length in prompts], before, len(prompts) * projected)


def training(sizes: Sizes, spec: AdapterSpec, batches: Iterable[Batch]) -> Work:
    """A step's forward and backward pass, which goes back to the first layer that is trained."""
    shape, whole = sizes.shape, spec.fine_tune_type == "full"
    trained = [
        size for key, size in zip(LINEAR_KEYS, sizes.modules(), strict=True) if key in (spec.keys or LINEAR_KEYS)
    ]
    factors = 0 if whole else spec.rank * sum(inputs + outputs for inputs, outputs in trained)
    adapted = shape.layers if whole else len(adapted_layers(spec, shape.layers))
    flops = 0.0
    for batch in batches:
        before, lengths = len(batch.prefix), batch.lengths.astype(float)
        tokens = before + float(lengths.sum())
        pairs = before**2 / 2 + float((lengths * before + lengths**2 / 2).sum())
        weights = (2 * shape.layers + (4 if whole else 2) * adapted) * sizes.layer_weights() + 6 * adapted * factors
        attention = (4 * shape.layers + 8 * adapted) * shape.heads * shape.head_width * pairs
        flops += weights * tokens + attention + (6 if whole else 4) * sizes.head * int((batch.weights > 0).sum())
    return Work(flops, 2.0 * sizes.weight_bytes)


def row_flops(config: dict[str, Any], spec: AdapterSpec, prefix: int, row: TrainingExample) -> float:
    """Of one row's training as a sequence of its own: the prefix in every row."""
    sizes = Sizes(ModelShape.of(config), 0, 0)
    shape, tokens = sizes.shape, prefix + len(row)
    factors = spec.rank * sum(inputs + outputs for inputs, outputs in sizes.modules())
    layer = (4 * sizes.layer_weights() + 6 * factors) * tokens + 6 * shape.heads * shape.head_width * tokens**2
    return float(shape.layers * layer + 4 * sizes.head * (len(row.reasoning) + len(row.answer)))
