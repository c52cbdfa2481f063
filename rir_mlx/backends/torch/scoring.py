"""Scoring with a PyTorch model: a row's prompt and the tree of all options run as one sequence.

A node of the tree sees the prompt, its ancestors and itself, at its position within the option. So no part of a row is
repeated for an option, and a group of rows takes one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rir_mlx.backends.base import Tokens, pad_right
from rir_mlx.backends.label_tree import (
    OptionTree,
    Scoring,
    parts,
    scoring_groups,
    trees,
)
from rir_mlx.backends.torch.forward import TorchForward, kept_prefix

_TOKENS = 8192
"""Tokens that run together, padding included."""


@torch.inference_mode()
def score(
    model: TorchForward, prompts: Sequence[Tokens], options: Sequence[Tokens], how: Scoring
) -> NDArray[np.float64]:
    """`Model.score`: each prompt runs once, followed by each common start of options once."""
    scores = np.zeros((len(prompts), len(options)))
    lengths = [len(prompt) for prompt in prompts]
    model.check_length(len(how.prefix) + max(lengths, default=0) + max(map(len, options), default=0))
    cache = kept_prefix(model, how.prefix)
    for columns, tree in trees(options):
        for chosen in scoring_groups(lengths, tree.nodes, how.batch_size, _TOKENS):
            rows = _Rows(model, [prompts[index] for index in chosen], tree, cache)
            probabilities = rows.log_probabilities() if how.mass else rows.without_mass()
            scores[np.ix_(chosen, columns)] = tree.totals(probabilities)
    return scores


class _Rows:
    """Prompts that ran together with a tree of options."""

    def __init__(self, model: TorchForward, prompts: Sequence[Tokens], tree: OptionTree, cache: Any) -> None:
        padded, lengths = pad_right(prompts)
        self.model, self.tree, (self.count, self.width) = model, tree, padded.shape
        rows, width, before = self.count, self.width, cache.get_seq_length()
        tokens = np.concatenate([padded, np.tile(tree.tokens, (rows, 1))], axis=1)
        own = np.tile(np.arange(width), (rows, 1))
        positions = before + np.concatenate([own, lengths[:, None] + tree.depths], axis=1)
        mask = (
            _mask(model, tree, before, width) & model.tensor(_real(lengths, before, width, tree.nodes))[:, None, None]
        )
        columns = np.concatenate([np.tile(np.arange(before), (rows, 1)), positions], axis=1)
        self.hidden = model.run(model.tensor(tokens), cache, mask, model.tensor(positions), model.tensor(columns))
        self.lasts = lengths[:, None] - 1

    def log_probabilities(self) -> NDArray[np.float64]:
        """[rows, edges] log p of the tree's edges."""
        return self._of(
            np.concatenate([self.lasts, self._node_columns()], axis=1), self.tree.sources, self.tree.targets
        )

    def without_mass(self) -> NDArray[np.float64]:
        """The same, up to a constant of each row: of the root only the words of its edges are projected, in one product
        for all rows."""
        tree, first = self.tree, self.tree.first
        rows = torch.arange(self.count, device=self.model.device)
        lasts = self.hidden[rows, self.model.tensor(self.lasts[:, 0].astype(np.int64))]
        words = self.model.tensor(tree.targets[:first].astype(np.int64))
        root = np.asarray(self.model.logits_of(lasts, words).double().cpu().numpy())
        return np.concatenate([root, self._of(self._node_columns(), tree.sources[first:] - 1, tree.targets[first:])], 1)

    def _node_columns(self) -> NDArray[np.int64]:
        return np.tile(self.width + np.arange(self.tree.nodes), (self.count, 1))

    def _of(self, columns: NDArray[Any], sources: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
        """[rows, edges] log p of edges whose sources are places among the columns [rows, places]."""
        if not len(sources):
            return np.zeros((self.count, 0))
        rows = np.arange(self.count)[:, None]
        places = (rows * (self.width + self.tree.nodes) + columns).ravel()
        wanted = self.hidden.flatten(0, 1)[self.model.tensor(places)]
        flat = (rows * columns.shape[1] + sources).ravel()
        return _log_probabilities(self.model, wanted, flat, np.tile(targets, self.count)).reshape(self.count, -1)


def _mask(model: TorchForward, tree: OptionTree, before: int, width: int) -> torch.Tensor:
    """[1, 1, width + nodes, before + width + nodes]: causal in the prompt; a node sees the prompt and its ancestors."""
    mask = np.ones((width + tree.nodes, before + width + tree.nodes), dtype=bool)
    mask[:width] = np.tri(width, before + width + tree.nodes, before, dtype=bool)
    mask[width:, before + width :] = tree.ancestors
    return model.tensor(mask)[None, None]


def _real(lengths: NDArray[np.int32], before: int, width: int, nodes: int) -> NDArray[np.bool_]:
    """[rows, before + width + nodes] False at the padding, which is between a prompt and the tree. A padding token,
    whose result is unused, still sees the prompt: an all-False row of the mask would give NaN."""
    columns = np.arange(before + width + nodes)
    real: NDArray[np.bool_] = (columns < before + lengths[:, None]) | (columns >= before + width)
    return real


def _log_probabilities(
    model: TorchForward, hidden: torch.Tensor, sources: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """[edges] log p of `targets` at the positions `sources` of hidden states [positions, width]."""
    found = []
    for positions, edges in parts(sources, len(hidden), model.lm_head.weight.shape[0]):
        logits = model.logits_of(hidden[positions]).float()
        at = model.tensor(sources[edges] - positions.start)
        wanted = logits[at, model.tensor(targets[edges].astype(np.int64))]
        top = logits.amax(-1)
        mass = logits.sub_(top[:, None]).exp_().sum(-1)
        found.append(wanted - (top + mass.log())[at])
        del logits
    return np.asarray(torch.cat(found).double().cpu().numpy())
