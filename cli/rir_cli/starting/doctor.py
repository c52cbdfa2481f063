"""`rir-mlx doctor`: whether this machine is ready."""

from __future__ import annotations

from dataclasses import asdict

import typer

from rir_cli.context import stage_options
from rir_cli.options import BackendOption, JsonOption, OfflineOption

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(backend: BackendOption = None, offline: OfflineOption = False, json: JsonOption = False) -> None:
    """Check this machine: Python, packages, framework, memory, disk, hub, models. Each finding names what mends it.

    The exit code is 1 if something fails.
    """
    stage_options(quiet=False, offline=offline)
    from rich.console import Console
    from rich.markup import escape

    from rir_cli.console import print_json
    from rir_mlx.guide.doctor import examine, worst
    from rir_mlx.hub_access import without_network

    checks, console = [], Console(highlight=False, emoji=False)
    with without_network(offline):
        for check in examine(backend=backend or "auto", offline=offline):
            checks.append(check)
            if not json:
                mark = f"[{_COLOURS[check.verdict]}]{check.verdict:<4}[/]"
                console.print(f"{mark}  {escape(check.name)}: {escape(check.found)}", soft_wrap=not console.is_terminal)
                if check.command:
                    console.print(f"      {escape(check.command)}", soft_wrap=not console.is_terminal)
    verdict = worst(checks)
    if json:
        print_json({"verdict": verdict, "checks": [asdict(check) for check in checks]})
    else:
        counts = {name: sum(check.verdict == name for check in checks) for name in _COLOURS}
        console.print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items() if count)}")
    if verdict == "fail":
        raise typer.Exit(1)
