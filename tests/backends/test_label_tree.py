"""Options as a tree, and which rows are scored together."""

from __future__ import annotations

import numpy as np
import pytest

from rir_mlx.backends.base import Tokens
from rir_mlx.backends.label_tree import (
    OptionTree,
    parts,
    scoring_groups,
    trees,
)
from rir_mlx.backends.limits import logits as limits


def random_options(seed: int, count: int = 40) -> list[Tokens]:
    """Of few different tokens, so that many start alike, and some are equal."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(0, 3, rng.integers(1, 7)).tolist()) for _ in range(count)]


def text_of(tree: OptionTree, node: int) -> Tokens:
    """The start that a node stands for, from its ancestors."""
    return tuple(tree.tokens[tree.ancestors[node - 1]].tolist()) if node else ()


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_has_each_start_once_and_each_option_as_its_edges(seed: int) -> None:
    options = random_options(seed)
    tree = OptionTree.of(options)
    starts = [text_of(tree, node) for node in range(tree.nodes + 1)]
    assert sorted(starts) == sorted({option[:end] for option in options for end in range(len(option))})
    assert [len(start) - 1 for start in starts[1:]] == tree.depths.tolist()
    assert (np.diff(tree.sources) >= 0).all()
    for option, edges in zip(options, tree.edges, strict=True):
        real = edges[edges < len(tree.sources)]
        assert tuple(tree.targets[real].tolist()) == option
        assert [starts[source] for source in tree.sources[real]] == [option[:end] for end in range(len(option))]


def test_totals_add_up_each_option_s_own_edges() -> None:
    options = random_options(0)
    tree = OptionTree.of(options)
    edge_scores = np.random.default_rng(0).normal(size=(3, len(tree.sources)))
    named = {
        (text_of(tree, int(s)), int(t)): i for i, (s, t) in enumerate(zip(tree.sources, tree.targets, strict=True))
    }
    expected = [
        [sum(row[named[option[:end], token]] for end, token in enumerate(option)) for option in options]
        for row in edge_scores
    ]
    np.testing.assert_allclose(tree.totals(edge_scores), expected)


@pytest.mark.parametrize("seed", range(5))
def test_paths_lead_through_every_node_and_none_is_the_start_of_another(seed: int) -> None:
    tree = OptionTree.of(random_options(seed))
    paths = tree.paths()
    assert {node for path in paths for node in path} == set(range(1, tree.nodes + 1))
    texts = [text_of(tree, path[-1]) for path in paths]
    assert [[text[: end + 1] for end in range(len(text))] for text in texts] == [
        [text_of(tree, node) for node in path] for path in paths
    ]
    assert not [text for text in texts for other in texts if text != other and other[: len(text)] == text]
    assert [len(path) for path in paths] == sorted(len(path) for path in paths)


def test_options_of_one_token_have_no_node() -> None:
    tree = OptionTree.of([(5,), (7,), (5,)])
    assert (tree.nodes, tree.paths(), tree.edges.tolist()) == (0, [], [[0], [1], [0]])


def test_many_options_are_several_trees_that_have_each_of_them_once() -> None:
    options = random_options(1, 200)
    grown = list(trees(options, 20))
    assert len(grown) > 1
    assert sorted(index for columns, _ in grown for index in columns) == list(range(200))
    assert all(tree.nodes <= 20 and len(tree.edges) == len(columns) for columns, tree in grown)


def test_an_option_longer_than_a_tree_may_be_is_a_tree_of_its_own() -> None:
    grown = list(trees([(1, 2), tuple(range(2, 60)), (3, 4)], 10))
    assert [columns for columns, _ in grown] == [[0], [1], [2]]


def test_rows_that_are_scored_together_are_like_and_few_enough() -> None:
    lengths = np.random.default_rng(0).integers(1, 120, 300).tolist()
    groups = scoring_groups(lengths, nodes=10, batch_size=16, most=1000)
    assert sorted(index for group in groups for index in group) == list(range(300))
    assert all(len(group) <= 16 for group in groups)
    assert all(len(group) * (max(lengths[index] for index in group) + 10) <= 1000 for group in groups)
    assert scoring_groups([5, 5000, 6], nodes=10, batch_size=16, most=1000) == [[0, 2], [1]]


def test_parts_project_each_position_once_with_the_edges_that_it_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOGIT_BYTES", 4 * 100 * 7)
    sources = np.sort(np.random.default_rng(0).integers(0, 50, 90))
    cut = list(parts(sources, 50, 100))
    assert np.concatenate([np.arange(50)[positions] for positions, _ in cut]).tolist() == list(range(50))
    assert np.concatenate([np.arange(90)[edges] for _, edges in cut]).tolist() == list(range(90))
    for positions, edges in cut:
        assert positions.stop - positions.start == 7
        assert ((sources[edges] >= positions.start) & (sources[edges] < positions.stop)).all()
