"""The command `serve`: a trained classifier over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rir_cli.answering.lean_start import start_lean
from rir_cli.context import arm_of, trained_context
from rir_cli.options import ArmOption, BackendOption, OfflineOption, QuietOption, RunsOption, ThresholdOption
from rir_mlx.types import RUNS, AnswerMode

if TYPE_CHECKING:  # numpy is not needed to print help
    from rir_mlx.classification.classifier import Classifier
    from rir_mlx.serving.wire import Served
    from rir_mlx.stages import Context
    from rir_mlx.types import Arm


RunArgument = Annotated[str | None, typer.Argument(help="A run's folder. Default: the newest run with a classifier.")]
HostOption = Annotated[
    str, typer.Option(help="Address to serve at. One that other machines can reach needs --api-key.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at; 0 takes a free one.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        envvar="RIR_MLX_API_KEY",
        show_envvar=False,
        help="Key that clients must send. Better in the environment, as RIR_MLX_API_KEY: others can see options.",
    ),
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="A host name by which clients reach this server; may be repeated."),
]
MaxTextsOption = Annotated[
    int, typer.Option(min=1, help="Texts that may wait or be worked on. Beyond it, requests get a 503.")
]
MaxWaitOption = Annotated[
    float, typer.Option(min=0, help="Seconds that a text may wait for its turn before its request gets a 503.")
]
TogetherOption = Annotated[
    int | None, typer.Option(min=1, help="Texts that go through the model at once. Default: evaluate.batch_size.")
]
LogOption = Annotated[
    bool, typer.Option("--log", help="Print a line per request: method, path, status, time; never its text.")
]

OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser once it is served.")]


def serve(
    run: RunArgument = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    api_key: KeyOption = None,
    allow_host: AllowHostOption = None,
    arm: ArmOption = None,
    threshold: ThresholdOption = None,
    max_texts: MaxTextsOption = 1024,
    max_wait: MaxWaitOption = 30.0,
    together: TogetherOption = None,
    log: LogOption = False,
    open_: OpenOption = False,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Serve a trained classifier over HTTP, with the reason for each decision.

    POST /v1/systemone and GET /v1/models answer TypeSafe's clients, POST /v1/decisions OpenAI's.
    POST /classify takes {"texts": […]} and can stream the reasonings. The API is described at /docs. At / is a page to
    try it on, to review the run's rows, and to read its report.

    Ctrl-C stops the server once it has answered what is in flight.
    """
    from rir_mlx.serving.server import ServeOptions, check_options
    from rir_mlx.serving.server import serve as serve_classifier

    names = frozenset(allow_host or ())
    options = ServeOptions(host, port, api_key or None, names, max_texts, max_wait, together or 1, log)
    check_options(options)
    context = trained_context(run, runs, backend, offline=offline, quiet=quiet)
    start_lean(context.backend.name)
    from dataclasses import replace

    from rir_mlx.classification import loading

    used: Arm = arm_of(context, arm)
    options = replace(options, together=together or context.recipe.evaluate.batch_size)
    from rir_mlx.serving.workbench.arms import ServedRun

    source = ServedRun(
        context.run,
        context.recipe,
        used,
        lambda wanted: loading.load_classifier(context.run, context.model, wanted),
        lambda classifier: served(context, classifier, threshold),
    )
    serve_classifier(source, options, context.progress, _open if open_ else None)


def _open(address: str) -> None:
    import webbrowser

    webbrowser.open(f"{address}/")


def served(context: Context, classifier: Classifier, threshold: float | None) -> Served:
    """What is said of the classifier that answers."""
    from datetime import UTC, datetime

    from rir_mlx.classification.classifier import no_threshold
    from rir_mlx.classification.exported import ExportedRun
    from rir_mlx.classification.loading import trained_at
    from rir_mlx.serving.wire import Served

    calibration = classifier.calibration
    modes: tuple[AnswerMode, ...] = ("direct", "reasoned", "auto")  # a server samples no reasonings
    thresholds: dict[AnswerMode, float] = {} if threshold is None else dict.fromkeys(modes, threshold)
    if threshold is None and (fitted := calibration.answer_from) is not None:
        if not fitted:
            raise no_threshold()
        thresholds = {mode: fitted[mode].confidence for mode in modes if mode in fitted}
    if thresholds and min(thresholds.values()) > 1:
        context.progress.warn(
            "Every answer abstains: on the validation rows no threshold is shown to reach evaluate.wanted_accuracy. "
            "--threshold 0 labels every text."
        )
    if not calibration.rows:
        context.progress.warn(
            "The probabilities are not calibrated: that takes an evaluation with more validation rows (data.val_size)"
            + (", and another export." if isinstance(context.run, ExportedRun) else ".")
        )
    created = trained_at(context.run, context.recipe, classifier.arm)
    day = datetime.fromtimestamp(created, UTC).date().isoformat()
    task = classifier.task
    single = tuple(task.labels) if task.combinations else ()
    about = (context.run.name, classifier.arm, tuple(task.names), day, int(created), calibration.rows > 0)
    return Served(*about, thresholds, single)
