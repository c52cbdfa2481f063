"""A written folder, loaded back by each installed engine and compared with the reference."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from rir_convert.verification.comparison import EngineComparison, Tolerance, compare_answers, unreadable
from rir_convert.verification.integrity import folder_faults
from rir_convert.verification.probe import ProbeAnswers, Reference, answer_probe
from rir_convert.weights.hf_folder import stored_as
from rir_convert.weights.tensors import Weights
from rir_mlx.backends import open_backend, release_memory
from rir_mlx.backends.base import Backend, Model, Tokens
from rir_mlx.errors import UserError
from rir_mlx.progress import Progress
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt
from rir_mlx.types import BackendName

_NEEDS: dict[BackendName, tuple[str, ...]] = {"torch": ("torch", "peft"), "mlx": ("mlx_lm",)}


def installed_engines() -> list[BackendName]:
    """The backends whose frameworks are installed."""
    return [name for name, modules in _NEEDS.items() if all(importlib.util.find_spec(module) for module in modules)]


class Verifier:
    """Compares written folders with the answers that they have to give."""

    def __init__(self, progress: Progress, reference: Reference) -> None:
        self.progress, self.reference = progress, reference

    def by(
        self,
        engines: Sequence[BackendName],
        number_format: str,
        load: Callable[[Backend], Model],
        faults: Sequence[str] = (),
        *,
        suffix: str = "",
    ) -> list[EngineComparison]:
        """A comparison for each engine, whose model `load` returns. `faults` were found in the folder before."""
        compared = []
        for name in engines:
            self.progress.say(f"Loading it back with {name}{suffix} …")
            try:
                model = load(open_backend(name))
            except UserError as error:
                compared.append(unreadable(name + suffix, error.what))
                continue
            answers = answer_probe(model, self.reference.probe)
            del model
            release_memory()
            compared.append(self.judge(name + suffix, answers, number_format, faults))
        return compared

    def of_folder(
        self, folder: Path, prompts: Sequence[tuple[Prompt, Tokens]], codec: Codec, *, suffix: str = ""
    ) -> list[EngineComparison]:
        """A folder in Hugging Face format: what is wrong with its files, and what each installed engine answers."""
        faults = folder_faults(folder, codec, prompts)
        number_format = stored_as(Weights(folder))
        engines = installed_engines()
        return self.by(engines, number_format, lambda engine: engine.load_as_is(folder), faults, suffix=suffix)

    def judge(
        self, name: str, answers: ProbeAnswers, number_format: str, faults: Sequence[str] = ()
    ) -> EngineComparison:
        tolerance = Tolerance(number_format, self.reference.effect)
        return compare_answers(name, self.reference.answers, answers, tolerance, faults)
