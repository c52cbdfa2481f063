"""The command `classify`: one text in words, many as lines, and whole files."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from rir_cli.context import trained_context
from rir_cli.options import (
    RUNS,
    ArmChoice,
    BackendOption,
    JsonOption,
    OfflineOption,
    QuietOption,
    RunsOption,
)

if TYPE_CHECKING:
    from rir_mlx.classification.classifier import Classifier
    from rir_mlx.classification.files import BulkResult
    from rir_mlx.classification.scores import Prediction
    from rir_mlx.classification.scoring import PredictOptions
    from rir_mlx.progress import Progress
    from rir_mlx.stages import Context

_CHUNK = 256
_EXAMPLE = 'For example: rir-mlx classify "I feel great"'


class ReasonChoice(StrEnum):
    never = "never"
    always = "always"
    auto = "auto"


def classify(
    text: Annotated[
        str | None, typer.Argument(help="The text; `-` or none reads standard input, a text a line.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Texts: .txt (one a line), .csv, .tsv, .jsonl or .parquet.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write --file's rows here, in their format, with their labels."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="The column of the text in a table.")] = None,
    run: Annotated[str | None, typer.Option(help="A run's folder; the newest with a classifier otherwise.")] = None,
    arm: Annotated[
        ArmChoice | None, typer.Option(help="The one that validation found best, where none is named.")
    ] = None,
    reason: Annotated[
        ReasonChoice, typer.Option(help="Whether to write reasonings; auto: where the text alone leaves doubt.")
    ] = ReasonChoice.always,
    samples: Annotated[int, typer.Option(min=1, help="Reasonings a text, whose probabilities are averaged.")] = 1,
    top_k: Annotated[int | None, typer.Option(min=1, help="The most probable labels, so many.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Give no label whose probability is lower.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write --output anew where it exists.")] = False,
    json: JsonOption = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a JSON object a line, as texts are classified.")
    ] = False,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Label texts: the reasoning as it is written, then the exact probability of every label.

    Many texts come out as lines of label, probability and text. With --output a table keeps all of its columns and gets
    label, probability and reasoning; a stopped command, given again, goes on.
    """
    single, texts = _input(text, file, output, text_column)
    context = trained_context(run, runs, backend, offline=offline, quiet=quiet)
    from rir_mlx.classification import loading
    from rir_mlx.classification.scoring import PredictOptions

    chosen = arm.value if arm else loading.default_arm(context.run)
    context.progress.say(f"Using the {chosen} classifier of {context.run.folder}.")
    classifier, options = loading.load_classifier(context.run, context.model, chosen), context.recipe.evaluate
    if threshold is None and (threshold := classifier.calibration.answer_from) is not None:
        if threshold > 1:
            context.progress.warn(
                "No text gets a label: on the validation rows no threshold is shown to reach evaluate.wanted_accuracy. "
                "--threshold 0 labels every text."
            )
        else:
            context.progress.say(f"No label where its probability is below {threshold:.3f} (evaluate.wanted_accuracy).")
    asked = _Asked(
        context,
        classifier,
        PredictOptions(reason.value, samples, options.sample_temperature, options.batch_size),
        _Form(json or jsonl, top_k, threshold),
    )
    if file is not None and output is not None:
        identity = loading.classifier_identity(context.run, context.model, chosen, asked.how)
        _to_file(asked, (file, output), text_column, identity, force=force)
    elif single:
        _one(asked, text or "")
    else:
        chunks = _arriving(sys.stdin, _CHUNK, context.progress) if texts is None else _chunks(texts, _CHUNK)
        _lines(asked, chunks, total=None if texts is None else len(texts))


@dataclass(frozen=True)
class _Form:
    """How answers are printed."""

    json: bool
    top_k: int | None
    threshold: float | None

    def abstains(self, prediction: Prediction) -> bool:
        from rir_mlx.statistics.calibration import abstains

        return abstains(prediction.probability, self.threshold)

    def best(self, prediction: Prediction) -> list[tuple[str, float]]:
        """The most probable labels, `top_k` of them or all."""
        return sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[: self.top_k]

    def values(self, text: str, prediction: Prediction) -> dict[str, Any]:
        """The answer as an object. Where the threshold is not reached, `label` is null and `abstained` true."""
        abstains = self.abstains(prediction)
        values: dict[str, Any] = {"text": text, "label": None if abstains else prediction.label}
        values |= {"abstained": abstains} if self.threshold is not None else {}
        if self.top_k is not None:
            values["top"] = [{"label": label, "probability": chance} for label, chance in self.best(prediction)]
        return values | {
            "probabilities": prediction.probabilities,
            "mass": prediction.mass,
            "reasoning": prediction.reasoning,
            "trimmed": prediction.trimmed,
        }

    def line(self, text: str, prediction: Prediction) -> str:
        """`label<TAB>probability`, so many times as labels are wanted, and the text. A label that is not given is
        empty, its probability is not."""
        pairs = (
            self.best(prediction) if self.top_k else [(prediction.label, prediction.probabilities[prediction.label])]
        )
        cells = [cell for label, chance in pairs for cell in (label, f"{chance:.3f}")]
        if self.abstains(prediction):
            cells[0] = ""
        return "\t".join([*cells, " ".join(text.split())])


@dataclass(frozen=True)
class _Asked:
    context: Context
    classifier: Classifier
    how: PredictOptions
    form: _Form

    def answers(self, texts: Sequence[str]) -> list[Prediction]:
        return self.classifier.predict(texts, self.how)


def _input(
    text: str | None, file: Path | None, output: Path | None, column: str | None
) -> tuple[bool, list[str] | None]:
    """Whether there is one text; else the texts of a file that is to be printed, None where they come from elsewhere.

    Raises UserError where it is not clear what to classify."""
    from rir_mlx.data.loading import read_texts
    from rir_mlx.errors import UserError

    if text is not None and file is not None:
        raise UserError("Give a text or --file, not both.")
    if file is None and output is not None:
        raise UserError("--output is for the rows of a file.", hint="Name it with --file, or redirect: > FILE")
    if file is not None:
        return False, read_texts(file, column) if output is None else None
    if text is not None and text != "-":
        if not text.strip():
            raise UserError("The text is empty.", hint=_EXAMPLE)
        return True, None
    if text is None and sys.stdin.isatty():
        raise UserError("There is no text to classify.", hint=_EXAMPLE)
    return False, None


def _one(asked: _Asked, text: str) -> None:
    from rir_cli.console import print_json, print_probabilities

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    form, progress = asked.form, asked.context.progress
    prediction = asked.classifier.predict([text], asked.how, on_text=None if form.json else write)[0]
    if prediction.trimmed:
        progress.warn(f"The text is too long for this model: its last {prediction.trimmed:,} tokens were cut.")
    if form.json:
        print_json(form.values(text, prediction))
        return
    if prediction.reasoning is not None:
        sys.stdout.write("\n\n")
    print_probabilities(dict(form.best(prediction)))
    if form.abstains(prediction):
        progress.warn(f"No label reaches the threshold of {form.threshold:g}.")


def _lines(asked: _Asked, chunks: Iterable[Sequence[str]], total: int | None) -> None:
    """Print an answer a line, chunk by chunk. Raises UserError where there was no text at all."""
    from rir_cli.console import print_json
    from rir_mlx.errors import UserError
    from rir_mlx.progress import Silent

    done = trimmed = 0
    with (asked.context.progress if total else Silent()).task("classify", total or 0) as task:
        for texts in chunks:
            for text, prediction in zip(texts, asked.answers(texts), strict=True):
                trimmed += prediction.trimmed > 0
                if asked.form.json:
                    print_json(asked.form.values(text, prediction))
                else:
                    sys.stdout.write(asked.form.line(text, prediction) + "\n")
            sys.stdout.flush()
            done += len(texts)
            task.advance(len(texts))
    if not done:
        raise UserError("The text is empty.", hint=_EXAMPLE)
    if trimmed:
        asked.context.progress.warn(f"{trimmed:,} texts are too long for this model: their ends were cut.")


def _to_file(asked: _Asked, files: tuple[Path, Path], text_column: str | None, identity: str, *, force: bool) -> None:
    from rir_cli.console import print_json
    from rir_mlx.classification.files import BulkOptions, classify_file

    form, progress = asked.form, asked.context.progress
    top_k = min(form.top_k or 1, len(asked.classifier.task.names))
    options = BulkOptions(text_column, top_k, form.threshold, identity, force=force)
    result = classify_file(*files, asked.answers, options, progress)
    if form.json:
        print_json({"output": str(files[1]), "classified": result.classified} | vars(result))
    else:
        progress.say(_summary(files[1], result))


def _summary(output: Path, result: BulkResult) -> str:
    shares = ", ".join(f"{label} {count:,}" for label, count in result.labels.most_common())
    abstained = f"; no label reached the threshold in {result.abstained:,}" if result.abstained else ""
    return f"{result.rows:,} rows ({shares or 'no label'}{abstained}) → {output}"


def _chunks(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _arriving(stream: TextIO, most: int, progress: Progress) -> Iterator[list[str]]:
    """The lines that are not empty, as many at once as there are, so that nobody waits for lines to come.

    Lines end with \\n or \\r\\n. Bytes that are not UTF-8 are replaced, and said at the end."""
    odd = 0
    for lines in _raw_lines(stream, most):
        texts = []
        for line in lines:
            text = line.decode("utf-8", "replace").removesuffix("\r").removeprefix("\ufeff")
            odd += "\ufffd" in text and b"\xef\xbf\xbd" not in line
            if text.strip():
                texts.append(text)
        if texts:
            yield texts
    if odd:
        progress.warn(f"{odd:,} lines of standard input are not UTF-8 text: the bytes in question were replaced.")


def _raw_lines(stream: TextIO, most: int) -> Iterator[list[bytes]]:
    try:
        number = stream.fileno()
    except OSError:  # a stream in memory
        while lines := list(islice(stream, most)):
            yield [line.removesuffix("\n").encode("utf-8", "surrogatepass") for line in lines]
        return
    waiting: list[bytes] = []
    rest, ended = b"", False
    while not ended or waiting:
        while not ended and len(waiting) < most and not (waiting and not select.select([number], [], [], 0)[0]):
            data = os.read(number, 1 << 16)
            *whole, rest = (rest + data).split(b"\n")
            waiting += whole
            if not data:
                ended = True
                waiting += [rest] if rest else []
        yield waiting[:most]
        waiting = waiting[most:]
