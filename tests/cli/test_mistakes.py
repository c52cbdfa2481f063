"""Mistakes on the command line, in recipes and in tables: exit code 2, one clear message, never a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from commands import LABELS, Run, write_csv
from rir_cli.app import _classify_command
from rir_cli.console import ConsoleProgress, print_error
from rir_cli.context import own_name
from tiny import make_tiny_llama

from rir_mlx import backends
from rir_mlx.errors import UserError
from rir_mlx.recipe.loading import load_recipe, shipped_recipe
from rir_mlx.recipe.schema import Recipe
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import Arm


def test_help_and_version_import_no_framework() -> None:
    code = (
        "import sys\nfrom rir_cli.app import main\n"
        "sys.argv = ['rir-mlx', '--help']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'mlx', 'mlx_lm', 'transformers', 'datasets', 'sklearn', 'numpy', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train-rgen", "augment", "train-classifier", "evaluate", "classify", "run", "demo", "export"):
        assert command in done.stdout


@pytest.mark.parametrize("command", [["-h"], ["run", "-h"], ["convert", "fuse", "-h"]])
def test_help_has_a_short_option(rir: Run, command: list[str]) -> None:
    result = rir(*command)
    assert (result.code, "Usage:" in result.out) == (0, True), result.err


def test_help_offers_every_backend_but_the_one_for_tests(rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = rir("run", "--help").out
    assert "<auto|mlx|torch>" in shown
    assert "fake" not in shown
    assert rir("run", "demo", "--backend", "fake").code == 2


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([("i feel fine", "joy")] * 30, "text,label", "needs two labels or more"),
        ([("i feel fine", "joy"), ("i was sad", "sadness")] * 30, "words,kind", "words, kind"),
        (
            [(f"text {n}", LABELS[n % 3]) if n not in (5, 50, 5000) else ("", "joy") for n in range(10_000)],
            "text,label",
            "3 of 10,000 rows",
        ),
    ],
    ids=["one label", "missing column", "three bad rows"],
)
def test_a_bad_table_is_one_clear_error(
    rir: Run, recipe: Path, rows: list[tuple[str, str]], header: str, words: str
) -> None:
    write_csv(Path("rows.csv"), rows, header)
    result = rir("train-classifier", str(recipe))
    assert result.code == 2
    assert words in result.err
    assert "rows.csv" in result.err


def test_three_bad_rows_are_named_by_their_line(rir: Run, recipe: Path) -> None:
    rows = [(f"text {n}", LABELS[n % 3]) if n not in (5, 50, 5000) else ("", "joy") for n in range(10_000)]
    write_csv(Path("rows.csv"), rows)
    result = rir("train-classifier", str(recipe))
    for line in (7, 52, 5002):
        assert f"row {line}" in result.err


def test_a_broken_line_of_json_is_named(rir: Run, recipe: Path) -> None:
    with Path("triples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": "who", \n')
    result = rir("train-rgen", str(recipe))
    assert result.code == 2
    assert "row 61" in result.err
    assert "triples.jsonl" in result.err


def test_a_misspelt_key_is_exit_code_2_with_a_suggestion(rir: Run, recipe: Path) -> None:
    recipe.write_text(recipe.read_text(encoding="utf-8") + "lora_paramters: {rank: 4}\n", encoding="utf-8")
    result = rir("run", str(recipe))
    assert result.code == 2
    assert "Did you mean 'lora_parameters'?" in result.err


def test_a_folder_that_cannot_be_written_is_exit_code_2(rir: Run, recipe: Path) -> None:
    Path("runs").write_text("a file stands where the folder should be")
    result = rir("run", str(recipe))
    assert (result.code, "cannot be written" in result.err) == (2, True), result.err


def test_an_absent_framework_names_its_extra(rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    result = rir("run", str(recipe), "--backend", "mlx")
    assert result.code == 2
    assert "[mlx-cpu]" in result.err


def test_an_unforeseen_error_is_exit_code_1_without_a_traceback(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by surprise")

    monkeypatch.setattr("rir_mlx.stages.train_rgen", broken)
    result = rir("train-rgen", str(recipe))
    assert result.code == 1
    assert "ZeroDivisionError: by surprise" in result.err
    assert "RIR_DEBUG=1" in result.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--no-such-option"], ["classify", "--arm", "zzz", "x"]])
def test_wrong_usage_is_exit_code_2(rir: Run, arguments: list[str]) -> None:
    assert rir(*arguments).code == 2


def test_recipe_prints_yaml_alone_on_stdout(rir: Run) -> None:
    result = rir("recipe", "demo", "--set", "seed=7")
    assert "seed: 7" in result.out
    assert result.err == ""


def test_recipe_custom_keeps_its_comments_and_the_marks_of_what_to_change(rir: Run) -> None:
    """It printed 123 bare lines, and the README tells to change those with a mark."""
    printed = rir("recipe", "custom").out
    assert printed == shipped_recipe("custom").read_text(encoding="utf-8")
    assert printed.count("# <-") == 5
    Path("mine.yaml").write_text(printed, encoding="utf-8")
    assert rir("recipe", "mine.yaml").out == printed
    assert Recipe.model_validate(yaml.safe_load(rir("recipe", "mine.yaml", "--all").out)) == load_recipe("mine.yaml")


def test_recipe_prints_that_of_a_runs_folder(rir: Run, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "kept" / "mine")
    run.save_recipe(load_recipe(None, ["name=mine", "seed=7"]))
    printed = rir("recipe", str(run.folder), "--set", "rgen.epochs=3").out
    assert load_recipe(None, ["name=mine", "seed=7", "rgen.epochs=3"]) == Recipe.model_validate(yaml.safe_load(printed))


def test_a_missing_model_says_how_to_get_one(rir: Run, recipe: Path) -> None:
    assert "no model folder" in rir("run", str(recipe), "--set", "model=./nowhere").err
    result = rir("run", str(recipe), "--set", "model=someone/something", "--offline")
    assert result.code == 2
    assert "hf download someone/something" in result.err


def test_code_in_a_models_folder_is_never_run(rir: Run, recipe: Path, tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rir("train-classifier", str(recipe), "--set", f"model={folder}", "--arm", "qa", stdin="y\ny\ny\n")
    assert not (tmp_path / "ran").exists()


def test_the_next_command_of_the_demo_can_be_typed_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/rir-mlx", "demo"])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert own_name() == ".venv/bin/rir-mlx"
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).with_name(name)))
    assert own_name() == "rir-mlx"


def test_another_program_of_the_same_name_on_the_path_is_not_this_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next command that was named would have been run by another version."""
    mine, other, linked = tmp_path / "mine/rir-mlx", tmp_path / "other/rir-mlx", tmp_path / "links/rir-mlx"
    for program in (mine, other):
        program.parent.mkdir()
        program.touch(mode=0o755)
    linked.parent.mkdir()
    linked.symlink_to(mine)
    monkeypatch.setattr(sys, "argv", [str(mine), "runs"])
    for found, name in ((mine, "rir-mlx"), (linked, "rir-mlx"), (other, str(mine))):
        monkeypatch.setenv("PATH", str(found.parent))
        assert own_name() == name


def test_the_next_command_of_the_demo_names_a_run_that_would_not_be_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).with_name(name)))
    for folder in ("runs/demo", "my runs/demo"):
        RunDir(Path(folder)).save_recipe(load_recipe("demo"))
        RunDir(Path(folder)).classifier("qa").finish({})
    assert _classify_command(RunDir(Path("runs/demo"))) == "rir-mlx classify"
    assert _classify_command(RunDir(Path("my runs/demo"))) == "rir-mlx classify --run 'my runs/demo'"


def test_a_fault_of_a_row_is_said_once(rir: Run, recipe: Path) -> None:
    write_csv(Path("rows.csv"), [("i feel happy", "joy"), ("", "joy"), ("i was sad", "sadness")])
    result = rir("train-classifier", str(recipe))
    assert result.code == 2
    assert result.err.count("the text is empty") == 1


@pytest.mark.parametrize(
    ("typed", "found", "hint"),
    [
        (["predict", "x"], "There is no command 'predict'.", "This does it: rir-mlx classify"),
        (["clasify", "x"], "Did you mean 'classify'?", "Commands: init, check, "),
        (["convert", "adaptor"], "Did you mean 'adapter'?", "Commands: adapter, fuse."),
        (["mine.yaml"], "There is no command 'mine.yaml'.", "rir-mlx run mine.yaml"),
        (["rows.csv"], "There is no command 'rows.csv'.", "rir-mlx init rows.csv"),
        (["run", "custom", "--set", "a=1", "b=2"], "Too many arguments: b=2.", "own: --set a=1 --set b=2"),
        (["run", "--set", "a=1", "b=2"], "b=2 is no recipe.", "--set b=2"),
        (["classify", "i", "feel", "great"], "Too many arguments: feel great.", 'classify "i feel great"'),
        (["run", "tickets.csv"], "tickets.csv is a table", "rir-mlx run custom -s name=tickets -s data.train=tickets"),
        (["run", "my tickets.csv"], "is a table", "custom -s name=my-tickets -s 'data.train=my tickets.csv'"),
        (["evaluate", "--run", "my run"], "evaluate has no --run.", "rir-mlx evaluate 'my run'"),
        (["serve", "--run=tickets"], "serve has no --run.", "rir-mlx serve tickets"),
        (["classify", "new.csv"], "There is no file new.csv.", "echo new.csv | rir-mlx classify"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_typed_wrong_names_what_was_probably_meant(rir: Run, typed: list[str], found: str, hint: str) -> None:
    result = rir(*typed)
    assert result.code == 2
    assert found in result.err
    assert hint in result.err


@pytest.mark.parametrize("columns", [60, 80])
def test_help_breaks_no_word_and_shows_no_type_of_a_switch(
    rir: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ([], ["classify"], ["train-classifier"], ["run"], ["augment"], ["convert", "fuse"]):
        shown = rir(*command, "-h").out
        assert "<bool>" not in shown
        assert max(map(len, shown.splitlines())) <= columns
        assert "Usage: rir-mlx" in shown
    classify = "".join(rir("classify", "-h").out.split())  # a line may end behind a hyphen
    assert all(arm in classify for arm in get_args(Arm))


def test_the_library_can_be_run_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "rir_mlx", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("rir-mlx ")) == (0, True), done.stderr


def test_training_in_float16_is_refused_with_what_to_use(rir: Run, recipe: Path) -> None:
    result = rir("train-rgen", str(recipe), "-s", "dtype=float16")
    assert (result.code, "dtype=bfloat16" in result.err) == (2, True), result.err


def test_messages_that_find_no_room_stop_no_work_and_output_that_finds_none_is_one_error(
    rir: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log on a full disk ended a training, and changed the exit code of a mistake."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None:
            self.write("")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Full())
        assert rir("train-rgen", str(recipe)).code == 0
        assert rir("train-rgen", "nothing.yaml").code == 2
        patch.undo()
        patch.setattr(sys, "stdout", Full())
        result = rir("recipe", "custom")
    assert result.code == 1
    assert result.err == (
        "error: The output could not be written: No space left on device.\nMake room, or send it elsewhere.\n"
    )


@pytest.mark.parametrize(
    "typed", [["train-rgen", "a" * 300 + ".yaml"], ["check", "a" * 300 + ".csv"], ["runs", "--runs", "a" * 300]]
)
def test_a_name_that_no_file_can_have_is_a_mistake_in_words(rir: Run, typed: list[str]) -> None:
    """It was `OSError: [Errno 36]` and exit code 1."""
    result = rir(*typed)
    assert result.code == 2
    assert result.err.endswith("File name too long.\n")
    assert len(result.err) < 200


def test_what_a_server_or_a_table_wrote_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Reasonings are printed while they are written: an escape sequence in one renamed the window, or cleared it."""
    steering = "joy\x1b]0;mine\x07 \x1b[2J\x9b2J\u00a0é\U0001f600"
    ConsoleProgress(quiet=False).say(steering)
    print_error(UserError(steering, hint=steering))
    printed = capsys.readouterr().err
    assert printed.count("joy\ufffd]0;mine\ufffd \ufffd[2J\ufffd2J\u00a0é\U0001f600") == 3
    assert not set("\x1b\x07\x9b") & set(printed)


def test_a_program_that_is_started_without_stdout_prints_nowhere() -> None:
    """`>&-` ended JSON with an AttributeError."""
    code = (
        "import sys\nsys.stdout = None\nfrom rir_cli.app import main\nsys.argv = ['rir-mlx', 'runs', '--json']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_an_empty_name_is_not_the_default_recipe(rir: Run) -> None:
    """`run "$UNSET"` would have fetched a model of 2.5 GB and trained it."""
    for command in ("run", "recipe", "evaluate"):
        result = rir(command, "")
        assert (result.code, "is empty" in result.err) == (2, True), result.err


def test_an_export_is_said_to_be_one_where_a_run_is_needed(rir: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/rir_mlx.json").write_text("{}")
    for command in ("evaluate", "review", "recipe"):
        result = rir(command, str(tmp_path / "out"))
        assert (result.code, "out is an export: it holds no recipe" in result.err) == (2, True), result.err


def test_a_folder_of_runs_that_is_none_is_a_mistake(rir: Run) -> None:
    Path("rows.txt").touch()
    for name, why in (("rows.txt", "is no folder"), ("nosuch", "is not there")):
        result = rir("runs", "--runs", name)
        assert (result.code, why in result.err) == (2, True), result.err
