"""Augmenting a run by a server: who gets texts and the key, and when refusals are asked again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from server_requests import KEY
from server_stand_in import Reply, StandInServer, echo, text_of

from rir_mlx.backends import open_backend
from rir_mlx.errors import UserError
from rir_mlx.models.adapters import MLX_WEIGHTS
from rir_mlx.models.hub import resolve_model
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.stages import Context
from rir_mlx.stages.augmentation import _AugmentationStage
from rir_mlx.stages.reasoning_model import ReasoningModel
from rir_mlx.storage.digests import changes
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel

FEW = ["-s", "augment.filters=[]", "-s", "augment.retries=0", "-s", "augment.concurrency=4", "-q"]


def stand_in(reply: Callable[[dict[str, Any]], Reply | None]) -> StandInServer:
    server = StandInServer(reply)
    server.models = 200, {}, {"data": [{"id": "one"}]}
    return server


def refusing(body: dict[str, Any]) -> Reply:
    if "angry" in text_of(body):
        return 400, {}, {"error": {"message": "against the rules"}}
    return echo(body)


def naming(recipe: Path, url: str) -> None:
    """Make the recipe itself name the server."""
    text = recipe.read_text(encoding="utf-8").replace(
        "augment: {", f"augment: {{engine: openai, base_url: '{url}', server_model: one, "
    )
    assert url in text
    recipe.write_text(text, encoding="utf-8")


def authorised(server: StandInServer) -> bool:
    return any("authorization" in headers for headers in server.headers)


def test_a_recipe_that_names_a_server_elsewhere_sends_nothing_until_the_user_names_it_too(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's recipe decided where OPENAI_API_KEY went."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    naming(recipe, "http://192.0.2.1:9/v1")
    result = rir("augment", str(recipe), *FEW)
    assert (result.code, "Only the recipe names the server" in result.err) == (2, True), result.err
    assert "--base-url http://192.0.2.1:9/v1" in result.err
    assert "--trust-recipe" in result.err


@pytest.mark.parametrize(
    "how", ["option", "override", "environment", "trusted", "nobody", "another port", "run's own", "other commands"]
)
def test_the_key_goes_only_to_a_host_that_the_user_named(
    rir: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    server = stand_in(echo)
    with server.running() as url:
        naming(recipe, url)
        given = {
            "option": ["--base-url", url],
            "override": ["-s", f"augment.base_url={url}"],
            "trusted": ["--trust-recipe"],
        }.get(how, [])
        if how in ("environment", "another port"):
            monkeypatch.setenv("OPENAI_BASE_URL", url if how == "environment" else url.replace("/v1", "1/v1"))
        if how == "run's own":  # a stranger's run says of itself what its user typed
            (tmp_path / "runs/small").mkdir(parents=True)
            (tmp_path / "runs/small/overrides.json").write_text(json.dumps({"overrides": [f"augment.base_url={url}"]}))
        if how == "other commands":
            given = ["-s", f"data.instruction=augment.base_url={url}"]
        result = rir("augment", str(recipe), *FEW, "--limit", "3", *given)
    assert result.code == 0, result.err
    assert len(server.bodies) == 3
    assert authorised(server) is (how in ("option", "override", "environment", "trusted"))


def stats_of(tmp_path: Path) -> dict[str, Any]:
    stats: dict[str, Any] = json.loads((tmp_path / "runs" / "small" / "augmented" / "stats.json").read_text())
    return stats["train"]


@pytest.mark.slow
def test_refusals_are_asked_again_of_another_server_and_with_retry_refused(
    rir: Run, recipe: Path, tmp_path: Path
) -> None:
    """A refusal was for ever: only --force, which throws all other reasonings away, asked again."""
    first, same, willing = stand_in(refusing), stand_in(refusing), stand_in(echo)
    with first.running() as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        result = rir("augment", str(recipe), "--base-url", url, *FEW[:-1])
        assert result.code == 0, result.err
        assert "--retry-refused" in result.err
        refused = stats_of(tmp_path)["rejected"]["refused"]
        asked = len(first.bodies)
        assert "skipped" in rir("augment", str(recipe), "--base-url", url, *FEW[:-1]).err
        assert len(first.bodies) == asked
    with same.running(port):
        result = rir("augment", str(recipe), "--base-url", url, *FEW, "--retry-refused")
        assert result.code == 0, result.err
        assert all("angry" in text_of(body) for body in same.bodies)
        assert stats_of(tmp_path)["rejected"] == {"refused": refused}
        again = len(same.bodies)
        assert again >= refused
        assert rir("augment", str(recipe), "--base-url", url, *FEW).code == 0
        assert len(same.bodies) == again
    with willing.running() as other:
        result = rir("augment", str(recipe), "--base-url", other, *FEW)
    assert result.code == 0, result.err
    assert len(willing.bodies) == again
    assert stats_of(tmp_path)["rejected"] == {}
    assert stats_of(tmp_path)["kept"] == 45


def test_refusals_are_asked_again_where_other_parameters_are_left_out(rir: Run, recipe: Path, tmp_path: Path) -> None:
    server = stand_in(lambda body: (400, {}, b"no top_p, please") if "top_p" in body else echo(body))
    with server.running() as url:
        assert rir("augment", str(recipe), "--base-url", url, *FEW).code == 1  # refuses everything
        result = rir("augment", str(recipe), "--base-url", url, *FEW, "-s", "augment.omit_parameters=[top_p]")
    assert result.code == 0, result.err
    assert stats_of(tmp_path)["kept"] == 45


@pytest.mark.slow
def test_rows_that_a_server_fails_on_end_with_a_count_and_the_command_that_tries_them_again(
    rir: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(body: dict[str, Any]) -> Reply:
        return (200, {}, {"choices": []}) if "angry" in text_of(body) else echo(body)

    server = stand_in(failing)
    with server.running() as url:
        result = rir("augment", str(recipe), "--base-url", url, *FEW[:2], "-s", "augment.retries=2")
        assert result.code == 0, result.err
        failed = stats_of(tmp_path)["rejected"]["failed"]
        assert f"failed on {failed} requests" in result.err
        assert "--retry-refused" in result.err
        server.reply = echo
        server_keys = ["-s", f"augment.base_url={url}", "-s", "augment.engine=openai", "-s", "augment.retries=2"]
        every_stage = ["run", str(recipe), *FEW[:2], *server_keys, "-s", "classifier.arms=[qa, qra]", "-q"]
        assert rir(*every_stage, "--retry-refused").code == 0
    assert stats_of(tmp_path)["kept"] == 45


def opened(folder: Path, *overrides: str) -> Context:
    recipe = load_recipe("demo", overrides)
    return Context(RunDir(folder), RecipeModel(recipe, open_backend("fake"), resolve_model(recipe.model)))


def test_an_r_gen_is_asked_as_it_was_trained(tmp_path: Path, tiny: Path) -> None:
    """It was asked by the new prompt without a word, if the recipe's was changed after its training."""
    context = opened(tmp_path, f"model={tiny}", "reasoning.prompt=words")
    context.run.rgen.begin()
    context.run.rgen.finish({})  # as before there was a choice
    with pytest.raises(UserError, match=r"reasoning.prompt steps, and would be asked by words.*\n.*train-rgen"):
        ReasoningModel(context).require_rgen()
    context.run.rgen.finish({"prompt": "words"})
    ReasoningModel(context).require_rgen()


def test_an_r_gen_that_judges_a_servers_reasonings_is_part_of_what_was_done(tmp_path: Path, tiny: Path) -> None:
    """The stage was skipped, though the R-Gen that filters and chooses had been trained anew since."""
    server = ("augment.engine=openai", "augment.base_url=http://127.0.0.1:9/v1", f"model={tiny}")

    def inputs(*overrides: str) -> dict[str, Any]:
        context = opened(tmp_path, *server, *overrides)
        return _AugmentationStage(context, None)._inputs({"engine": "openai", "model": "one"})

    judged = (("augment.filters=[uninformative]",), ("augment.n=2", "augment.temperature=1"))
    trained = ("augment.n=2", "augment.temperature=1", "augment.choose=useful")
    before, plain = [inputs(*overrides) for overrides in judged], inputs()
    adapter = RunDir(tmp_path).rgen.adapter / MLX_WEIGHTS
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(b"trained")
    said = [changes(one, inputs(*overrides)) for one, overrides in zip(before, judged, strict=True)]
    assert said == [["R-Gen's adapter has changed"]] * 2
    assert inputs() == plain, "it judges nothing there"
    assert inputs(*trained) != inputs(*trained, "lora_parameters.rank=2", "fine_tune_type=lora")
