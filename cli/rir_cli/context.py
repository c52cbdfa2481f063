"""From a command's options to the options of the Python API, and to an open run."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from rir_mlx.progress import process_rank
from rir_mlx.types import RUNS

if TYPE_CHECKING:  # a backend's framework is not needed to print help
    from rir_mlx.pipeline import Options
    from rir_mlx.stages import Context, OpenOptions
    from rir_mlx.types import Arm, BackendName


def stage_options(*, quiet: bool, **options: Unpack[Options]) -> Options:
    """The options of a stage's function. Progress goes to this terminal, and the report shows this command."""
    prepare(offline=options.get("offline", False))
    from rir_cli.console import ConsoleProgress

    options["progress"] = ConsoleProgress(quiet=quiet)
    options["command"] = shlex.join(["rir-mlx", *sys.argv[1:]])
    return options


def open_options(options: Options, *, continues: bool = False) -> OpenOptions:
    """The same options for functions that open a run themselves."""
    from rir_mlx.pipeline import open_options

    return open_options(options, continues=continues)


def trained_context(run: str | None, runs: Path, backend: BackendName | None, *, offline: bool, quiet: bool) -> Context:
    """The named run, or the newest one. Raises UserError if it has no trained classifier."""
    options = stage_options(quiet=quiet, runs=runs, backend=backend, offline=offline)
    from rir_mlx.stages import open_trained_run

    return open_trained_run(run, open_options(options))


def arm_of(context: Context, named: Arm | None) -> Arm:
    """The arm that answers: the `named` one, else the one to use, and a line that says which, of what, and why."""
    from rir_mlx.classification.loading import arm_to_use

    arm, why = (named, "") if named else arm_to_use(context.run)
    if arm in context.run.trained_arms():  # else opening it says what is wrong
        context.progress.say(f"Using the {arm} classifier of {context.run.folder}.{' ' * bool(why)}{why}")
    return arm


def prepare(*, offline: bool) -> None:
    """Set what libraries read when they are imported: no telemetry, and no network if `offline`."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Libraries announce their later versions, and PEFT remarks on mlx-lm's keys. A user can fix neither.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Unexpected keyword arguments", category=UserWarning)
    if offline:
        from rir_mlx.hub_access import forbid_network

        forbid_network()


def multiply_exactly() -> None:
    """Let MLX multiply float32 with all of its bits, where it would take 10 (TF32, on M5 and CUDA), unless the user has
    said which: an export is compared with the trained model. MLX reads it at its first product."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")


def tell(text: str, *, err: bool = False) -> None:
    """Print sentences on stdout or stderr. A terminal gets them broken between words; elsewhere a line stays whole."""
    from rich.console import Console

    console = Console(stderr=err, highlight=False, markup=False, emoji=False)
    console.print(text, soft_wrap=not console.is_terminal)


def wrapped(text: str) -> str:
    """The text of a question that is asked on stderr, broken between words for a terminal; elsewhere as it is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    lines = Text(text).wrap(console, console.width) if console.is_terminal else [text]
    return "\n".join(str(line).rstrip() for line in lines)


def set_words(overrides: Iterable[str]) -> list[str]:
    """Overrides of a recipe's keys as the words of a command."""
    return [word for text in overrides for word in ("-s", text)]


def say_next(options: Options, command: str) -> None:
    """Name the command that follows, on stderr. `command` is typed behind the program's name."""
    progress = options.get("progress")
    runs = Path(options.get("runs", RUNS))
    if progress is not None and process_rank() == 0:
        more = "" if runs == RUNS else f" --runs {shlex.quote(str(runs))}"
        progress.say(f"Next: {own_name()} {command}{more}")


def note_default(recipe: str | None, options: Options) -> None:
    """Say so on stderr if no recipe is named, before a command that takes the default one then."""
    from rir_mlx.stages.opening import NO_RECIPE

    progress = options.get("progress")
    if recipe is None and progress is not None and process_rank() == 0:
        progress.say(NO_RECIPE)


def own_name() -> str:
    """What a user types to run this program. The virtual environment that `make demo` uses may not be active, and
    another one may be."""
    if (found := shutil.which("rir-mlx")) is not None:
        program = Path(found).resolve()
        if program == Path(sys.argv[0]).resolve() or program.parent == Path(sys.executable).parent.resolve():
            return "rir-mlx"
    if sys.argv[0].endswith("__main__.py"):
        return f"{shlex.quote(sys.executable) if found else 'python'} -m rir_mlx"
    return shlex.quote(sys.argv[0])
