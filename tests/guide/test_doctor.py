"""`rir-mlx doctor`: what is wrong with a machine, and the command that mends it."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from commands import Run

from rir_mlx.backends.facts import Facts
from rir_mlx.errors import UserError
from rir_mlx.guide import doctor, machine
from rir_mlx.guide.doctor import Check, examine, worst

GIB = 2**30


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(doctor, "hub_answers", lambda: False)
    monkeypatch.setattr(doctor, "is_offline", lambda: False)  # another test may have forbidden the network
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def checked(**options: Any) -> dict[str, Check]:
    return {check.name: check for check in examine(backend="fake", **options)}


def test_a_machine_without_a_hub_is_told_what_it_can_still_do() -> None:
    found = checked()
    assert found["Hub"].verdict == "warn"
    assert (found["Models"].verdict, found["Models"].command.split()[:2]) == ("warn", ["hf", "download"])
    assert worst(list(found.values())) == "warn"


def test_offline_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "hub_answers", lambda: pytest.fail("asked"))
    assert checked(offline=True)["Hub"] == Check("Hub", "ok", "not asked (offline)")


def test_a_version_that_was_never_tested_fails_with_the_command_that_installs_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ["transformers>=5.0,<5.40", "numpy>=2.0", 'nowhere>=1; sys_platform == "none"', "absent>=3"]
    wanted.append('x; extra == "y"')
    versions = {"transformers": "5.41", "numpy": "2.4"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(doctor.metadata, "version", version)
    found = list(doctor._versions())
    assert [check.verdict for check in found] == ["fail", "fail"]
    assert found[0].found == "transformers 5.41 was never tested; <5.40,>=5.0 is wanted"
    assert found[1].command == "pip install 'absent>=3'"


def test_every_installed_package_of_this_environment_is_within_the_tested_bounds() -> None:
    assert [check.verdict for check in doctor._versions()] == ["ok"]


@pytest.mark.parametrize(
    ("facts", "name", "verdict", "command"),
    [
        (Facts(None, 8, "the wheel's reference BLAS", slow=True), "Matrices", "warn", "mlx-cpu"),
        (Facts(None, 1, "MKL"), "Matrices", "warn", "unset OMP_NUM_THREADS"),
        (Facts("Apple M5", 8, "MLX's own kernels", tf32=True), "float32", "warn", "MLX_ENABLE_TF32=0"),
        (Facts("NVIDIA H200", 8, "cuBLAS", tf32=True), "float32", "warn", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
        (Facts("Apple M4", 8, "MLX's own kernels"), "Accelerator", "ok", ""),
    ],
    ids=["reference BLAS", "one thread", "TF32", "PyTorch's TF32", "a GPU"],
)
def test_what_slows_or_blurs_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, facts: Facts, name: str, verdict: str, command: str
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("rir_mlx.backends.fake.FakeBackend.facts", lambda _: facts)
    found = checked()[name]
    assert (found.verdict, command in found.command) == (verdict, True), found


def test_a_framework_that_does_not_load_fails_and_the_other_checks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise OSError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "open_backend", broken)
    found = {check.name: check for check in examine(backend="torch")}
    assert found["Framework"].verdict == "fail"
    assert found["Framework"].command == "pip install --force-reinstall torch peft"
    assert "Disk for runs" in found

    def missing(_: str) -> None:
        raise UserError("PyTorch is not installed.", hint="pip install torch")

    monkeypatch.setattr(doctor, "open_backend", missing)
    assert {check.name: check for check in examine(backend="torch")}["Framework"].command == "pip install torch"


@pytest.mark.parametrize(("free", "verdict"), [(100 * GIB, "ok"), (GIB, "warn"), (1000, "fail")])
def test_a_full_disk_is_noticed(monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda _: free)
    assert checked()["Disk for runs"].verdict == verdict


def test_little_memory_is_a_warning_that_names_smaller_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "physical_memory", lambda: 4 * GIB)
    found = checked()["Memory"]
    assert (found.verdict, "rir-mlx models" in found.command) == ("warn", True)


def test_a_container_has_the_memory_that_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP", limit)
    limit.write_text("1048576\n", encoding="utf-8")
    assert machine.physical_memory() == 1048576
    limit.write_text("max\n", encoding="utf-8")
    assert machine.physical_memory() > 1048576


def test_the_wired_limit_of_a_mac_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.wired_limit() is None or machine.on_apple_silicon()
    monkeypatch.setattr(machine, "on_apple_silicon", lambda: True)
    done = type("Done", (), {"stdout": "12288\n"})
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: done)
    assert machine.wired_limit() == 12 * GIB
    assert checked()["Wired limit"].found == "the GPU may keep 12.0 GB"


def test_the_command_prints_json_and_its_exit_code_is_1_if_something_fails(
    rir: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check("Python", "ok", "3.13"), Check("Hub", "warn", "away", "mend it")]
    monkeypatch.setattr(doctor, "examine", lambda **_: iter(checks))
    result = rir("doctor", "--json")
    assert (result.code, json.loads(result.out)["verdict"]) == (0, "warn")
    checks.append(Check("Disk for runs", "fail", "full", "empty it"))
    result = rir("doctor")
    assert result.code == 1
    assert result.out.splitlines()[-1] == "1 ok, 1 warn, 1 fail"
    assert "      empty it" in result.out.splitlines()
