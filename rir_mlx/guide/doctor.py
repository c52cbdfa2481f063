"""Whether this machine is ready: each check with a verdict, what was found, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from rir_mlx.backends import on_apple_silicon, open_backend
from rir_mlx.backends.facts import Facts
from rir_mlx.errors import RirError, install_extra
from rir_mlx.guide import machine
from rir_mlx.guide.models import EMBEDDED_MODEL, BaseModel, default_model, fitting, models_here
from rir_mlx.hub_access import cached_names, hub_answers, is_offline
from rir_mlx.training.cost import memory_size
from rir_mlx.types import OPEN_MIRROR, BackendName

Verdict = Literal["ok", "warn", "fail"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

_LITTLE_DISK, _NO_DISK = 5 * 2**30, 2**29
_OLDEST = (3, 11)
_EXTRAS = {
    "serve": (("starlette", "uvicorn"), "rir-mlx serve"),
    "mcp": (("mcp",), "rir-mlx mcp"),
    "gguf": (("gguf",), "export --to gguf"),
    "plots": (("matplotlib",), "the report's charts as PNG files"),
    "ray": (("ray",), "augment --engine ray"),
    "tensorboard": (("tensorboardX",), "report_to: [tensorboard]"),
}
"""Modules of optional extras, and what they are for."""
_SHOWN = ("transformers", "huggingface_hub", "datasets", "numpy")
_FRAMEWORKS: dict[BackendName, tuple[str, ...]] = {"mlx": ("mlx", "mlx-lm"), "torch": ("torch", "peft")}
_ROSETTA = "Install a Python for arm64: the one that runs is translated by Rosetta, and has no MLX."


@dataclass(frozen=True)
class Check:
    """`command` mends it, or says what to do; empty if nothing is to be done."""

    name: str
    verdict: Verdict
    found: str
    command: str = ""


def examine(*, backend: BackendName = "auto", offline: bool = False) -> Iterator[Check]:
    """Every check, as it is done. The hub is asked unless `offline`."""
    yield _python()
    yield from _versions()
    yield from _framework(backend)
    here = models_here(machine.physical_memory())
    yield from _memory(here)
    yield from _disk()
    yield _hub(offline=offline)
    yield _models(here)
    yield from _extras()


def worst(checks: list[Check]) -> Verdict:
    return max((check.verdict for check in checks), key=VERDICTS.index, default="ok")


def _python() -> Check:
    found = f"{platform.python_version()} on {machine.machine_name()}"
    if sys.version_info[:2] < _OLDEST:
        return Check("Python", "fail", found, "Install Python 3.11 or newer, and make a new environment.")
    if sys.platform == "darwin" and not on_apple_silicon() and "ARM64" in platform.version().upper():
        return Check("Python", "fail", found, _ROSETTA)
    return Check("Python", "ok", found)


def _versions() -> Iterator[Check]:
    """Installed versions against the bounds that rir-mlx was tested with."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("rir-mlx") or ()]
    except metadata.PackageNotFoundError:
        yield Check("Packages", "warn", "rir-mlx is not installed as a package", "pip install -e . (in the checkout)")
        return
    here, broken = list[str](), list[Check]()
    for requirement in wanted:
        optional = requirement.marker is not None and "extra" in str(requirement.marker)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}) and not optional:
            continue  # of another platform
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            why = f"{requirement.name} {version} was never tested; {requirement.specifier} is wanted"
            broken.append(Check("Packages", "fail", why, f"pip install '{requirement.name}{requirement.specifier}'"))
        elif version is None and not optional:
            broken.append(
                Check(
                    "Packages",
                    "fail",
                    f"{requirement.name} is missing",
                    f"pip install '{requirement.name}{requirement.specifier}'",
                )
            )
        elif version is not None and requirement.name.replace("-", "_") in _SHOWN:
            here.append(f"{requirement.name} {version}")
    yield from {check.found: check for check in broken}.values()
    if not broken:
        yield Check("Packages", "ok", ", ".join(dict.fromkeys(here)))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _framework(name: BackendName) -> Iterator[Check]:
    """The framework is opened as a training does: a broken installation shows here."""
    chosen: BackendName = ("mlx" if on_apple_silicon() else "torch") if name == "auto" else name
    versions = ", ".join(f"{package} {_version(package) or 'missing'}" for package in _FRAMEWORKS.get(chosen, ()))
    try:
        backend = open_backend(chosen)
        facts, device = backend.facts(), backend.device()
    except RirError as error:
        yield Check("Framework", "fail", error.what, error.hint)
        return
    except Exception as error:  # a library that is there, and cannot be loaded
        again = f"pip install --force-reinstall {' '.join(_FRAMEWORKS.get(chosen, ()))}"
        yield Check("Framework", "fail", f"{chosen} cannot be loaded: {type(error).__name__}: {error}", again)
        return
    yield Check("Framework", "ok", versions or chosen)
    yield _accelerator(facts, device.name)
    yield _matrices(facts)
    yield _float32(facts)


def _accelerator(facts: Facts, device: str) -> Check:
    if facts.accelerator is not None:
        return Check("Accelerator", "ok", facts.accelerator)
    width = "fast in bfloat16" if facts.bfloat16 else "slow in bfloat16, so weights take four bytes each"
    if on_apple_silicon():
        return Check("Accelerator", "warn", f"none: {device}", "Run it outside of a virtual machine without Metal.")
    if Path("/proc/driver/nvidia").exists():
        return Check("Accelerator", "warn", f"none, but an NVIDIA driver is here: {device}", "pip install torch (CUDA)")
    return Check("Accelerator", "ok", f"none: {device}; {width}")


def _matrices(facts: Facts) -> Check:
    cores = os.cpu_count() or 1
    found = f"{facts.matrices}, {facts.threads} of {cores} threads"
    if facts.slow:
        return Check("Matrices", "warn", f"{found}: some 25 times slower than OpenBLAS", install_extra("mlx-cpu"))
    if facts.accelerator is None and facts.threads < max(1, cores // 2) and "OMP_NUM_THREADS" in os.environ:
        return Check("Matrices", "warn", found, "unset OMP_NUM_THREADS")
    return Check("Matrices", "ok", found)


def _float32(facts: Facts) -> Check:
    if facts.tf32:
        torch = "" if on_apple_silicon() else "unset NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE; "
        mend = torch + "export MLX_ENABLE_TF32=0"
        return Check("float32", "warn", "multiplied in TF32, with 10 bits: texts may depend on their batch", mend)
    return Check("float32", "ok", "multiplied exactly (no TF32)")


def _memory(here: Sequence[BaseModel]) -> Iterator[Check]:
    memory, free = machine.physical_memory(), machine.free_memory()
    model = default_model(memory, here)
    found = memory_size(memory) + (f", {memory_size(free)} of it free" if free is not None else "")
    wanted = f"training {OPEN_MIRROR} takes about {memory_size(model.memory or 0)}"
    if model.fits:
        yield Check("Memory", "ok", f"{found}; {wanted}")
    else:
        smaller = "rir-mlx models shows smaller ones; or run with -s rgen.batch_size=1 -s classifier.batch_size=1"
        yield Check("Memory", "warn", f"{found}; {wanted}", smaller)
    if (limit := machine.wired_limit()) is not None:
        said = memory_size(limit) if limit else "the system's own, about three quarters of the memory"
        yield Check("Wired limit", "ok", f"the GPU may keep {said}", "sudo sysctl iogpu.wired_limit_mb=MB raises it")


def _disk() -> Iterator[Check]:
    from huggingface_hub import constants

    for name, folder in (("Disk for runs", Path.cwd()), ("Disk for models", Path(constants.HF_HUB_CACHE))):
        free = machine.free_disk(folder)
        verdict: Verdict = "fail" if free < _NO_DISK else "warn" if free < _LITTLE_DISK else "ok"
        mend = "" if verdict == "ok" else "rir-mlx runs (sizes of runs); hf cache ls (sizes of models)"
        yield Check(name, verdict, f"{memory_size(free)} free for {folder}", mend)
    if not os.access(Path.cwd(), os.W_OK):
        yield Check("Folder", "fail", f"{Path.cwd()} cannot be written", "cd to a folder of yours")


def _hub(*, offline: bool) -> Check:
    if offline or is_offline():
        return Check("Hub", "ok", "not asked (offline)")
    if hub_answers():
        from huggingface_hub import get_token

        token = "a token is here" if get_token() else "no token: only gated models need one"
        return Check("Hub", "ok", f"answers; {token}")
    mend = "export HTTPS_PROXY=http://HOST:PORT, if you are behind a proxy"
    return Check("Hub", "warn", "cannot be reached: only what is on this machine can be used", mend)


def _models(here: Sequence[BaseModel]) -> Check:
    names = cached_names("model")
    shown = ", ".join([*names[:5], *(["…"] if len(names) > 5 else [])]) or "none but the embedded one"
    if not any(model.name != EMBEDDED_MODEL for model in fitting(here)):
        return Check("Models", "warn", f"{shown}: of no use for reasoning", f"hf download {OPEN_MIRROR}")
    return Check("Models", "ok", shown)


def _extras() -> Iterator[Check]:
    for extra, (modules, use) in _EXTRAS.items():
        there = all(_is_here(module) for module in modules)
        found, mend = (use, "") if there else (f"not installed: {use}", install_extra(extra))
        yield Check(f"Extra {extra}", "ok", found, mend)


def _is_here(module: str) -> bool:
    find: Callable[[str], object] = importlib.util.find_spec
    return find(module) is not None
