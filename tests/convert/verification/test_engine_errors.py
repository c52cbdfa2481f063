"""An engine that cannot load or run a folder is a fault of the export, and hides no other fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rir_convert.verification import verifier as verification
from rir_convert.verification.engines.base import CannotRun
from rir_convert.verification.engines.libraries import Library, why_not
from rir_convert.verification.probe import Probe, ProbeAnswers, Reference
from rir_convert.verification.verifier import Verifier, Written
from rir_convert.weights.hf_folder import FolderMetadata, _config

from rir_mlx.backends.base import Float32Array, Tokens
from rir_mlx.errors import ModelError
from rir_mlx.progress import Silent


class Full:
    """An engine that opens and cannot run."""

    forward = "x"

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")


def opens(*_: object) -> Full:
    return Full()


def refuses(*_: object) -> Full:
    raise ModelError("the folder is cut.")


def has_no_code(*_: object) -> Full:
    raise CannotRun("it has no code for them")


@pytest.mark.parametrize(
    ("open_engine", "says"),
    [
        (opens, "it cannot be loaded or run: CUDA out of memory. Tried to allocate 2.00 GiB"),
        (refuses, "it cannot be loaded or run: the folder is cut"),
        (has_no_code, "it cannot be loaded or run: it has no code for them"),
    ],
)
def test_an_engine_that_cannot_load_or_run_a_folder_hides_no_other_fault(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, open_engine: object, says: str
) -> None:
    """A full GPU ended as a traceback, and what was wrong with the files was forgotten."""
    monkeypatch.setattr(verification, "open_engine", open_engine)
    flat = np.zeros((4, 9), np.float32)
    verifier = Verifier(Silent(), Reference(Probe((), [(1, 2, 3)]), ProbeAnswers([flat], flat, None, []), 1.0))
    made_for: Library = "transformers"
    written = Written(tiny, "float32", made_for=made_for, faults=["the chat template is lost"])
    [result] = verifier.by([made_for], written)
    assert (result.engine, result.faults) == (made_for, ("the chat template is lost", says))


_LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.2], "long_factor": [4.0, 8.0]}
_SHAPE = {"model_type": "phi3", "max_position_embeddings": 256, "original_max_position_embeddings": 64}


def test_mlx_lm_compares_no_model_whose_angles_it_turns_otherwise() -> None:
    """An export of Phi-3.5 for transformers was called another model than the one that was trained."""
    about = {to: FolderMetadata([1], made_for=to) for to in ("pt", "mlx")}
    theirs, mlx = (_config(_SHAPE | {"rope_scaling": _LONG}, "float32", each) for each in about.values())
    assert theirs["rope_scaling"]["long_factor"] == [4.0, 8.0]
    assert theirs["original_max_position_embeddings"] == 64
    assert "rotary angles" in str(why_not("mlx-lm", theirs, 9))
    assert why_not("transformers", theirs, 9) is None
    assert mlx["rope_scaling"]["long_factor"] == [1.0, 1.2], "those of the short texts that it is used for"
    assert why_not("mlx-lm", mlx, 9) is None
    for name in ("rope_type", "type"):  # the newer and the older one
        dynamic = {name: "dynamic", "factor": 2.0}
        theirs, mlx = (_config(_SHAPE | {"rope_scaling": dynamic}, "float32", each) for each in about.values())
        assert "rotary angles" in str(why_not("mlx-lm", theirs, 9))
        assert (mlx["rope_scaling"], why_not("mlx-lm", mlx, 9)) == (None, None)
    yarn = {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5}
    assert "rotary settings" in str(why_not("mlx-lm", _SHAPE | {"rope_scaling": yarn}, 9))
    unnamed = {"model_type": "phi3", "max_position_embeddings": 256, "rope_scaling": _LONG}
    assert "original_max_position_embeddings" not in _config(unnamed, "float32", about["pt"])
