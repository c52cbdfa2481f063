from __future__ import annotations

from rir_mlx.evaluation.cleaning import cleaned


def test_rows_that_stand_in_train_or_contradict_each_other_are_left_out() -> None:
    kept = cleaned(
        ["I feel Great", "so sad"],
        ["i  feel great", "fine", "odd", "ODD", "twice", "Twice ", "so sad!"],
        ["joy", "joy", "joy", "anger", "fear", "fear", "sadness"],
    )
    assert kept.tolist() == [False, True, False, False, True, True, True]
    assert cleaned([], [], []).tolist() == []
