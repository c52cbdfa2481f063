"""The options to score as a tree of their tokens, and the rows to score together.

Options with a common start share its nodes, so it is run, and its next-token probabilities are computed, only once.
Knows no framework: both backends run the same tree, each in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import Int32Array, Tokens
from rir_mlx.backends.limits import logits as limits


@dataclass(frozen=True)
class Scoring:
    """How options are scored: after `prefix`, at most `batch_size` prompts at a time. Without `mass`, a prompt's scores
    are right up to a constant that they share: then no word but the options' own is projected at its end."""

    prefix: Tokens = ()
    batch_size: int = 32
    mass: bool = True


@dataclass(frozen=True)
class OptionTree:
    """A tree whose root is the end of a prompt and whose other nodes are proper prefixes of options.

    Node 0 is the root; node i + 1 stands for `tokens[i]` after its parent. An edge is a token that some option has
    after a node; the options' scores are sums of the edges' log p. An option's last token is only an edge, unless the
    option is a prefix of another.

    tokens     [nodes] the token of each node but the root; a parent comes before its children
    depths     [nodes] how many tokens of the option are before it
    ancestors  [nodes, nodes] True where the second is the first or one of its ancestors
    sources    [edges] the node that predicts, the root being 0; ascending
    targets    [edges] the token that it predicts
    edges      [options, longest] each option's edges; the number of edges where it has no more tokens
    """

    tokens: Int32Array
    depths: Int32Array
    ancestors: NDArray[np.bool_]
    sources: Int32Array
    targets: Int32Array
    edges: Int32Array

    @classmethod
    def of(cls, options: Sequence[Tokens]) -> OptionTree:
        """The tree of non-empty options. Options may be equal, or start with another option."""
        # Sorted, so that parents come before children; the first is the empty start.
        _, *starts = sorted({option[:end] for option in options for end in range(len(option))})
        nodes: dict[Tokens, int] = {(): 0} | {start: index for index, start in enumerate(starts, 1)}
        ancestors = np.zeros((len(starts), len(starts)), dtype=bool)
        for index, start in enumerate(starts):
            ancestors[index] = ancestors[nodes[start[:-1]] - 1] if len(start) > 1 else False
            ancestors[index, index] = True
        steps = sorted({(nodes[option[:end]], option[end]) for option in options for end in range(len(option))})
        numbers = {step: index for index, step in enumerate(steps)}
        edges = np.full((len(options), max(map(len, options))), len(steps), dtype=np.int32)
        for row, option in zip(edges, options, strict=True):
            row[: len(option)] = [numbers[nodes[option[:end]], token] for end, token in enumerate(option)]
        return cls(
            tokens=np.array([start[-1] for start in starts], dtype=np.int32),
            depths=np.array([len(start) - 1 for start in starts], dtype=np.int32),
            ancestors=ancestors,
            sources=np.array([source for source, _ in steps], dtype=np.int32),
            targets=np.array([target for _, target in steps], dtype=np.int32),
            edges=edges,
        )

    @property
    def nodes(self) -> int:
        """Tokens that are run after a prompt."""
        return len(self.tokens)

    @property
    def first(self) -> int:
        """Edges from the root, which come first: their words follow the prompt itself."""
        return int(np.searchsorted(self.sources, 1))

    def totals(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """[rows, options] scores from log p of the edges [rows, edges]."""
        padded = np.concatenate([probabilities, np.zeros((len(probabilities), 1))], axis=1)
        total: NDArray[np.float64] = padded[:, self.edges].sum(-1)
        return total

    def paths(self) -> list[list[int]]:
        """The nodes from the root, without it, to each node that has no child: together they have every node. Sorted
        by length."""
        inner = {int(node) for row in self.ancestors for node in np.nonzero(row)[0][:-1]}
        leaves = (row for node, row in enumerate(self.ancestors) if node not in inner)
        return sorted(((np.nonzero(row)[0] + 1).tolist() for row in leaves), key=len)


def trees(options: Sequence[Tokens], most: int = 2048) -> Iterator[tuple[list[int], OptionTree]]:
    """The options split into trees of at most `most` nodes, or of one option: the indices of the options, and their
    tree. A mask grows with the square of the nodes, so thousands of options need several trees."""
    order = sorted(range(len(options)), key=lambda index: options[index])
    group: list[int] = []
    nodes: set[Tokens] = set()
    for index in order:
        more = {options[index][:end] for end in range(1, len(options[index]))}
        if group and len(nodes | more) > most:
            yield group, OptionTree.of([options[index] for index in group])
            group, nodes = [], set()
        group.append(index)
        nodes |= more
    if group:
        yield group, OptionTree.of([options[index] for index in group])


def scoring_groups(lengths: Sequence[int], nodes: int, batch_size: int, most: int) -> list[list[int]]:
    """Rows that are scored together: of like length, at most `batch_size` of them, and at most `most` tokens, padding
    and `nodes` tokens of options in each row included. A longer row is scored alone."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        size = len(groups[-1]) + 1 if groups else 0
        if not groups or size > batch_size or size * (lengths[index] + nodes) > most:
            groups.append([])
        groups[-1].append(index)
    return groups


def parts(sources: NDArray[np.int64], positions: int, vocabulary: int) -> Iterator[tuple[slice, slice]]:
    """Cuts of `positions` hidden states whose float32 logits fit into `LOGIT_BYTES`, each with the edges that they
    predict. `sources` [edges] are the positions that predict, ascending."""
    size = max(1, limits.LOGIT_BYTES // (4 * vocabulary))
    for start in range(0, positions, size):
        low, high = np.searchsorted(sources, [start, start + size])
        yield slice(start, start + size), slice(int(low), int(high))
