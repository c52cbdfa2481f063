"""The command `classify`: a single text, many texts as lines, and whole files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rir_cli.answering.lean_start import start_lean
from rir_cli.answering.standard_input import arriving_lines, given_text
from rir_cli.answering.text_files import TableOptions, file_given_as_text, with_trained_column
from rir_cli.context import arm_of, trained_context
from rir_cli.options import (
    ArmOption,
    BackendOption,
    DelimiterOption,
    EncodingOption,
    FormulasOption,
    MassOption,
    OfflineOption,
    QuietOption,
    QuotesOption,
    ReasonOption,
    RunOption,
    RunsOption,
    SamplesOption,
    TextColumnOption,
    ThresholdOption,
    TopKOption,
)
from rir_mlx.types import RUNS

if TYPE_CHECKING:  # numpy is not needed to print help
    from rir_mlx.classification.classifier import Classifier
    from rir_mlx.classification.files import ClassifyFileResult
    from rir_mlx.classification.scores import Prediction
    from rir_mlx.classification.scoring import PredictOptions
    from rir_mlx.progress import Progress

_CHUNK = 256
_JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; of several texts, one object per line.")
]
_EXAMPLE = 'For example: rir-mlx classify "I feel great"'


def classify(
    text: Annotated[
        str | None, typer.Argument(help="The text. `-` or nothing: read standard input, one text per line.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file of texts: .txt (one per line), .csv, .tsv, .jsonl, .xlsx or .parquet.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the rows of --file here with their labels, in the same format."),
    ] = None,
    text_column: TextColumnOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    quotes: QuotesOption = None,
    formulas: FormulasOption = False,
    run: RunOption = None,
    arm: ArmOption = None,
    reason: ReasonOption = "always",
    samples: SamplesOption = 1,
    mass: MassOption = True,
    top_k: TopKOption = None,
    threshold: ThresholdOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --output.")] = False,
    json: _JsonOption = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per line, as texts come.")] = False,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Label texts: the reasoning as it is written, then the exact probability of every label.

    Many texts are printed one per line: label, probability, text.
    With --output, a table keeps its columns and gets label, probability and reasoning; the command can be resumed.
    """
    text, file = file_given_as_text(text, file)
    given = TableOptions(text_column, delimiter, encoding, quotes, formulas, force, quiet)
    table = with_trained_column(given, file, run, runs)
    single, texts = _input(text, file, output, table)
    context = trained_context(run, runs, backend, offline=offline, quiet=quiet)
    start_lean(context.backend.name)
    from rir_mlx.classification import loading
    from rir_mlx.classification.scoring import PredictOptions

    arm, progress, recipe = arm_of(context, arm), context.progress, context.recipe.evaluate
    classifier = loading.load_classifier(context.run, context.model, arm)
    options = PredictOptions(reason, samples, recipe.sample_temperature, recipe.batch_size, mass)
    _warn_of_samples(classifier, options, progress)
    threshold = _fitted_threshold(classifier, options, progress) if threshold is None else threshold
    session = _Session(classifier, options, _OutputFormat(json or jsonl, top_k, threshold), progress)
    if file is not None and output is not None:
        identity = loading.classifier_identity(context.run, context.model, arm, options)
        _classify_file(session, (file, output), table, identity)
    elif single:
        _classify_text(session, text or "")
    elif texts is not None:
        _classify_lines(session, _chunks(texts, _CHUNK), total=len(texts))
    else:
        _classify_input(session, asks=text is None and sys.stdin.isatty())


def _warn_of_samples(classifier: Classifier, options: PredictOptions, progress: Progress) -> None:
    if not classifier.is_calibrated(options):
        progress.warn(f"Probabilities over {options.samples} reasonings are not calibrated: {classifier.of_samples}.")


def _fitted_threshold(classifier: Classifier, options: PredictOptions, progress: Progress) -> float | None:
    """The threshold chosen for `evaluate.wanted_accuracy`, and a report of what it does."""
    threshold = classifier.answer_from(options)
    if threshold is not None and threshold <= 1:
        progress.say(f"Giving no label if its probability is below {threshold:.3f} (evaluate.wanted_accuracy).")
    elif threshold is not None:
        progress.warn(
            "No text gets a label: on the validation rows no threshold is shown to reach evaluate.wanted_accuracy. "
            "--threshold 0 labels every text."
        )
    return threshold


@dataclass(frozen=True)
class _OutputFormat:
    """How predictions are printed."""

    json: bool
    top_k: int | None
    threshold: float | None

    def abstains(self, prediction: Prediction) -> bool:
        from rir_mlx.statistics.calibration import abstains

        return abstains(prediction.probability, self.threshold)

    def best(self, prediction: Prediction) -> list[tuple[str, float]]:
        """The `top_k` most probable labels, or all. Where a text may have several, each is taken by itself."""
        return sorted(prediction.by_label.items(), key=lambda pair: -pair[1])[: self.top_k]

    def values(self, text: str, prediction: Prediction) -> dict[str, Any]:
        """The prediction as JSON. Below the threshold, `label` is null and `abstained` is true."""
        abstains = self.abstains(prediction)
        values: dict[str, Any] = {"text": text, "label": None if abstains else prediction.label}
        if prediction.singly is not None:
            values |= {"probability": prediction.probability, "labels": [] if abstains else list(prediction.labels)}
        values |= {"abstained": abstains} if self.threshold is not None else {}
        if self.top_k is not None:
            values["top"] = [
                {"label": label, "probability": probability} for label, probability in self.best(prediction)
            ]
        return values | {
            "probabilities": prediction.by_label,
            "mass": prediction.mass,
            "reasoning": prediction.reasoning,
            **_first_values(prediction),
            "trimmed": prediction.trimmed,
        }

    def line(self, text: str, prediction: Prediction) -> str:
        """`label<TAB>probability` for each of the most probable labels, then the text; where a text may have several,
        the likeliest combination is before them. Below the threshold the first label is empty; its probability is
        still printed."""
        likeliest = [(prediction.label, prediction.probability)]
        pairs = self.best(prediction) if self.top_k else likeliest
        pairs = likeliest + pairs if self.top_k and prediction.singly is not None else pairs
        cells = [cell for label, probability in pairs for cell in (label, f"{probability:.3f}")]
        if self.abstains(prediction):
            cells[0] = ""
        return "\t".join([*cells, " ".join(text.split())])


def _first_values(prediction: Prediction) -> dict[str, Any]:
    """What an arm that answers twice answered before its reasoning."""
    first = prediction.first
    return {} if first is None else {"first": {"label": first.label, "probability": first.probability}}


@dataclass(frozen=True)
class _Session:
    """A loaded classifier and how its predictions are made and printed."""

    classifier: Classifier
    options: PredictOptions
    form: _OutputFormat
    progress: Progress

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        return self.classifier.predict(texts, self.options)


def _input(
    text: str | None, file: Path | None, output: Path | None, table: TableOptions
) -> tuple[bool, list[str] | None]:
    """Whether there is a single text; otherwise the texts of --file to print, or None if they come from elsewhere.

    Raises UserError if the options contradict each other or there is no text."""
    from rir_mlx.errors import UserError

    if text is not None and file is not None:
        raise UserError("Give a text or --file, not both.")
    if file is None and output is not None:
        raise UserError("--output is for the rows of a file.", hint="Name it with --file, or redirect: > FILE")
    if file is not None:
        return False, table.texts(file) if output is None else None
    if text is not None and text != "-":
        given_text(text, _EXAMPLE)
        return True, None
    return False, None


def _classify_input(session: _Session, *, asks: bool) -> None:
    """Classify the lines of standard input; at a terminal, ask for a text again and again until the input ends."""
    if not asks:
        _classify_lines(session, arriving_lines(sys.stdin, _CHUNK, session.progress), total=None)
        return
    while True:
        try:
            text = input("Text (Ctrl-D ends): ")
        except EOFError:
            typer.echo("")
            return
        if text.strip():
            _classify_text(session, text)
            typer.echo("")


def _classify_text(session: _Session, text: str) -> None:
    """Print the reasoning as it is generated, then the label probabilities."""
    from rir_cli.console import print_json, print_probabilities
    from rir_mlx.statistics.calibration import NO_ANSWER

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    form, progress = session.form, session.progress
    on_text = None if form.json else write
    prediction = session.classifier.predict([text], session.options, on_text=on_text)[0]
    if prediction.trimmed:
        progress.warn(f"The text is too long for this model: its last {prediction.trimmed:,} tokens were cut off.")
    if form.json:
        print_json(form.values(text, prediction))
        return
    if prediction.reasoning is not None:
        sys.stdout.write("\n\n")
    if prediction.first is not None:
        first = prediction.first
        sys.stdout.write(f"Before the reasoning: {first.label} {first.probability:.1%}\n\n")
    if prediction.singly is not None:
        given = "" if form.abstains(prediction) else f"{', '.join(prediction.labels)}\n"
        sys.stdout.write(f"{given}Likeliest together: {prediction.label} {prediction.probability:.1%}\n\n")
    print_probabilities(dict(form.best(prediction)))
    if prediction.fits_no_label:
        progress.warn(
            f"The text may fit no label: together they hold {prediction.mass:.2%} of the model's probability, so the "
            "numbers above are a guess."
        )
    if form.abstains(prediction) and form.threshold != NO_ANSWER:  # of which the user was told before
        what = "No label" if prediction.singly is None else "No combination of labels"
        progress.warn(f"{what} reaches the threshold of {form.threshold:g}.")


def _classify_lines(session: _Session, chunks: Iterable[Sequence[str]], total: int | None) -> None:
    """Print one prediction per line, chunk by chunk. Raises UserError if there was no text at all."""
    from rir_cli.console import print_json
    from rir_mlx.classification.scores import unfit_texts
    from rir_mlx.errors import UserError
    from rir_mlx.progress import Silent

    done = trimmed = unfit = 0
    with (session.progress if total else Silent()).task("classify", total or 0) as task:
        for texts in chunks:
            for text, prediction in zip(texts, session.predict(texts), strict=True):
                trimmed += prediction.trimmed > 0
                unfit += prediction.fits_no_label
                if session.form.json:
                    print_json(session.form.values(text, prediction))
                else:
                    sys.stdout.write(session.form.line(text, prediction) + "\n")
            sys.stdout.flush()
            done += len(texts)
            task.advance(len(texts))
    if not done:
        raise UserError("There is no text to classify.", hint=_EXAMPLE)
    if trimmed:
        session.progress.warn(f"Texts too long for this model, whose ends were cut off: {trimmed:,}.")
    if unfit:
        session.progress.warn(unfit_texts(unfit))


def _classify_file(session: _Session, files: tuple[Path, Path], table: TableOptions, identity: str) -> None:
    """Classify the rows of the first file into the second, and print a summary."""
    from rir_cli.console import print_json
    from rir_mlx.classification.files import ClassifyFileOptions, classify_file

    form, progress = session.form, session.progress
    top_k = min(form.top_k or 1, len(session.classifier.task.labels))
    options = ClassifyFileOptions(
        table.text_column,
        top_k,
        form.threshold,
        identity,
        force=table.force,
        form=table.form(),
        safe_cells=not table.formulas,
        firsts=session.classifier.answers_twice,
        several=bool(session.classifier.task.combinations),
    )
    result = classify_file(*files, session.predict, options, progress)
    if form.json:
        print_json({"output": str(files[1]), "classified": result.classified} | vars(result))
    else:
        progress.say(_summary(files[1], result))


def _summary(output: Path, result: ClassifyFileResult) -> str:
    shares = ", ".join(f"{label} {count:,}" for label, count in result.labels.most_common())
    abstained = f"; below the threshold {result.abstained:,}" if result.abstained else ""
    return f"{result.rows:,} rows ({shares or 'no label'}{abstained}) → {output}"


def _chunks(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))
