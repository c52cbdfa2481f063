"""A written folder, opened by each installed library and compared with the reference.

The reference is what training and classification compute. The libraries run as their users run them, with nothing of
ours inside (`engines/`): so a head or a mask that is wrong here differs from theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rir_convert.verification.comparison import (
    CANNOT_RUN,
    EngineComparison,
    Tolerance,
    compare_answers,
    rounds_embedding_factor,
    unusable,
)
from rir_convert.verification.engines.base import CannotRun
from rir_convert.verification.engines.libraries import (
    Library,
    installed_libraries,
    longest_of,
    name_of,
    open_engine,
    why_not,
)
from rir_convert.verification.integrity import folder_faults
from rir_convert.verification.probe import Asking, ProbeAnswers, ProbedModel, Reference, engine_answers
from rir_convert.weights.hf_folder import stored_as
from rir_convert.weights.tensors import Weights
from rir_mlx.backends import release_memory
from rir_mlx.backends.base import Tokens
from rir_mlx.models.config import read_config
from rir_mlx.progress import Progress
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt


@dataclass(frozen=True)
class Written:
    """What was written, and how it is judged.

    folder         in Hugging Face format, or the base of `adapter`
    number_format  of its weights, a key of `BOUNDS`
    adapter        a folder that the libraries open over the other
    made_for       the library that has to run it; others may not know its family
    faults         what was found in its files before
    suffix         follows the library's name
    every_row      whether the labels of all rows are scored, however long that takes
    """

    folder: Path
    number_format: str
    adapter: Path | None = None
    made_for: Library | None = None
    faults: Sequence[str] = ()
    suffix: str = ""
    every_row: bool = False


class Verifier:
    """Compares written folders with the answers that they have to give."""

    def __init__(self, progress: Progress, reference: Reference) -> None:
        self.progress, self.reference = progress, reference

    def by(self, libraries: Sequence[Library], written: Written) -> list[EngineComparison]:
        """A comparison for each library."""
        return [self._compared(library, written) for library in libraries]

    def of_folder(
        self,
        folder: Path,
        prompts: Sequence[tuple[Prompt, Tokens]],
        codec: Codec,
        *,
        made_for: Library | None = None,
        suffix: str = "",
    ) -> list[EngineComparison]:
        """A folder in Hugging Face format: what is wrong with its files, and what each installed library answers."""
        faults = folder_faults(folder, codec, prompts)
        number_format = stored_as(Weights(folder))
        written = Written(folder, number_format, made_for=made_for, faults=faults, suffix=suffix)
        return self.by(installed_libraries(), written)

    def answers(
        self, engine: ProbedModel, name: str, *, longest: int | None = None, every_row: bool = False
    ) -> ProbeAnswers:
        """An engine's answers, counted as they come: a large model takes minutes for them."""
        asking = Asking(longest, every_row, self.progress, f"rows run by {name}")
        return engine_answers(engine, self.reference.probe, self.reference.answers.scores, asking)

    def judge(
        self, name: str, answers: ProbeAnswers, number_format: str, faults: Sequence[str] = ()
    ) -> EngineComparison:
        tolerance = Tolerance(number_format, self.reference.effect)
        return compare_answers(name, self.reference.answers, answers, tolerance, faults)

    def _compared(self, library: Library, written: Written) -> EngineComparison:
        name = name_of(library, written.adapter) + written.suffix
        config = read_config(written.folder)
        if reason := why_not(library, config, self.reference.probe.longest_row):
            return self._not_compared(name, reason, written, library)
        self.progress.say(f"Loading it back with {name} …")
        try:
            engine = open_engine(library, written.folder, written.adapter)
            answers = self.answers(engine, name, longest=longest_of(library, config), every_row=written.every_row)
        except CannotRun as error:
            return self._not_compared(name, error.what, written, library)
        except CANNOT_RUN as error:
            return unusable(name, error, written.faults)
        forward = engine.forward
        if rounds_embedding_factor(self.reference.answers, answers):
            forward += "; one side rounds the embedding's factor to bfloat16, so bfloat16's bounds hold"
        del engine
        release_memory()
        return replace(self.judge(name, answers, written.number_format, written.faults), forward=forward)

    def _not_compared(self, name: str, reason: str, written: Written, library: Library) -> EngineComparison:
        """A fault where the folder was made for this library. What was found in its files is a fault in any case."""
        if library == written.made_for:
            return unusable(name, CannotRun(reason), written.faults)
        return EngineComparison(name, faults=tuple(written.faults), not_compared=reason)
