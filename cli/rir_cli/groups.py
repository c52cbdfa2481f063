"""What a user typed that no command understands, with the command that was probably meant."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

_MEANT = {
    "predict": "classify",
    "infer": "classify",
    "label": "classify",
    "train": "run",
    "fit": "run",
    "finetune": "run",
    "eval": "evaluate",
    "test": "evaluate",
    "generate": "augment",
    "audit": "check",
    "start": "init",
    "new": "init",
    "setup": "init",
    "diagnose": "doctor",
    "benchmark": "bench",
    "speed": "bench",
    "list": "runs",
    "ls": "runs",
    "diff": "compare",
    "validate": "check",
    "config": "recipe",
    "fuse": "convert fuse",
    "push": "export --push-to-hub OWNER/NAME",
}
_EXTRA = "Got unexpected extra argument"
_RUN = "--run"


class Group(TyperGroup):
    """Commands by name; another name is an error that says which command does that."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from rir_mlx.errors import UserError, did_you_mean

        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            if meant := _MEANT.get(name):
                hint = f"This does it: rir-mlx {meant}"
            elif Path(name).suffix in (".yaml", ".yml"):
                hint = f"To train with a recipe: rir-mlx run {shlex.quote(name)}"
            elif Path(name).suffix:
                hint = f"To begin with a table: rir-mlx init {shlex.quote(name)}"
            else:
                hint = f"Commands: {', '.join(known)}."
            raise UserError(f"There is no command {name!r}.{did_you_mean(name, known)}", hint=hint)
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A command whose errors for too many arguments, and for `--run` where a run is an argument, say what is probably
    meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # a class that typer keeps to itself
            message = str(getattr(error, "message", ""))
            from rir_mlx.errors import UserError

            if message.startswith(f"No such option: {_RUN}") and (names := _values_of(_RUN, given)):
                hint = f"Name the run itself: rir-mlx {self.name} {shlex.quote(names[0])}"
                raise UserError(f"{self.name} has no {_RUN}.", hint=hint) from error
            if not message.startswith(_EXTRA):
                raise
            extra = message.rpartition("(")[2].rstrip(")")
            raise UserError(f"Too many arguments: {extra}.", hint=self._hint(given)) from error

    def _hint(self, given: list[str]) -> str:
        words = [text for text in given if not text.startswith("-")]
        if self.name == "classify":
            text = " ".join(words).replace('"', "'")
            return f'Put the text in quotation marks: rir-mlx classify "{text}"'
        if pairs := [text for text in words if "=" in text]:
            every = " ".join(f"--set {shlex.quote(text)}" for text in pairs)
            return f"Each key=value needs a --set of its own: {every}"
        return f"`rir-mlx {self.name} --help` shows what it takes."


def _values_of(option: str, given: list[str]) -> list[str]:
    """What an option is given: `--run NAME`, `--run=NAME`."""
    behind = [text for before, text in pairwise(given) if before == option]
    return behind + [text.partition("=")[2] for text in given if text.startswith(f"{option}=")]
