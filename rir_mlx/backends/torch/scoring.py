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
    parts,
    scoring_groups,
    trees,
)
from rir_mlx.backends.torch.forward import TorchForward, kept_prefix

_TOKENS = 8192
"""Tokens that run together, padding included."""


@torch.inference_mode()
def score(
    model: TorchForward, prompts: Sequence[Tokens], options: Sequence[Tokens], prefix: Tokens, batch_size: int
) -> NDArray[np.float64]:
    """`Model.score`: each prompt runs once, followed by each common start of options once."""
    scores = np.zeros((len(prompts), len(options)))
    cache = kept_prefix(model, prefix)
    lengths = [len(prompt) for prompt in prompts]
    for columns, tree in trees(options):
        for chosen in scoring_groups(lengths, tree.nodes, batch_size, _TOKENS):
            probabilities = _score_edges(model, [prompts[index] for index in chosen], tree, cache)
            scores[np.ix_(chosen, columns)] = tree.totals(probabilities)
    return scores


def _score_edges(model: TorchForward, prompts: Sequence[Tokens], tree: OptionTree, cache: Any) -> NDArray[np.float64]:
    """[rows, edges] log p of the tree's edges after each prompt."""
    padded, lengths = pad_right(prompts)
    rows, width = padded.shape
    before = cache.get_seq_length()
    tokens = np.concatenate([padded, np.tile(tree.tokens, (rows, 1))], axis=1)
    own = np.tile(np.arange(width), (rows, 1))
    positions = before + np.concatenate([own, lengths[:, None] + tree.depths], axis=1)
    mask = _mask(model, tree, before, width) & model.tensor(_real(lengths, before, width, tree.nodes))[:, None, None]
    columns = np.concatenate([np.tile(np.arange(before), (rows, 1)), positions], axis=1)
    hidden = model.run(model.tensor(tokens), cache, mask, model.tensor(positions), model.tensor(columns))
    ends = np.concatenate([lengths[:, None] - 1, np.tile(width + np.arange(tree.nodes), (rows, 1))], axis=1)
    places = (np.arange(rows)[:, None] * (width + tree.nodes) + ends).ravel()
    wanted = hidden.flatten(0, 1)[model.tensor(places)]
    sources = (np.arange(rows)[:, None] * (1 + tree.nodes) + tree.sources).ravel()
    return _log_probabilities(model, wanted, sources, np.tile(tree.targets, rows)).reshape(rows, -1)


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
