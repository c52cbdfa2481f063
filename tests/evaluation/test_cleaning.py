from __future__ import annotations

from rir_mlx.evaluation.cleaning import row_faults


def test_rows_that_stand_in_train_or_contradict_each_other_are_left_out() -> None:
    found = row_faults(
        ["I feel Great", "so sad"],
        ["i  feel great", "fine", "odd", "ODD", "twice", "Twice ", "so sad!"],
        ["joy", "joy", "joy", "anger", "fear", "fear", "sadness"],
    )
    assert found.leaked.tolist() == [True, False, False, False, False, False, False]
    assert found.conflicting.tolist() == [False, False, True, True, False, False, False]
    assert found.clean.tolist() == [False, True, False, False, True, True, True]
    assert row_faults([], [], []).clean.tolist() == []
