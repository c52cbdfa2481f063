"""Of several chat templates one counts, and its date stands still, in training and in what is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rir_convert.verification.integrity import folder_faults
from rir_convert.weights.hf_folder import FolderMetadata, write_about
from tiny import TEMPLATE
from transformers import AutoTokenizer

from rir_mlx.errors import ModelError
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import classifier_prompt
from rir_mlx.prompting.templates import frozen, stored_templates

DATE = "26 Jul 2024"
OTHER = "{{ bos_token }}{% for m in messages %}USER: {{ m.content }}\n{% endfor %}ASSISTANT:"
MESSAGE = [{"role": "user", "content": "x"}]
PROMPT = classifier_prompt("i feel happy", {"joy": "", "anger": ""}, "Which label?", "label")


def with_templates(tiny: Path, folder: Path, *, setting: object = None, file: str | None = None, **more: str) -> Path:
    """The tiny model with templates in tokenizer_config.json, in chat_template.jinja and beside."""
    shutil.copytree(tiny, folder)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["chat_template"]
    path.write_text(json.dumps(values | ({"chat_template": setting} if setting else {})), encoding="utf-8")
    if file:
        (folder / "chat_template.jinja").write_text(file, encoding="utf-8")
    for name, template in more.items():
        (folder / "additional_chat_templates").mkdir(exist_ok=True)
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(template, encoding="utf-8")
    return folder


NAMED = [{"name": "tool_use", "template": "TOOLS"}, {"name": "default", "template": TEMPLATE}]
PLACES: dict[str, dict[str, Any]] = {
    "the setting": {"setting": TEMPLATE},
    "the file": {"file": TEMPLATE},
    "the file before an older setting": {"file": TEMPLATE, "setting": OTHER},
    "a list": {"setting": NAMED},
    "the file before a list": {"file": TEMPLATE, "setting": [{"name": "default", "template": OTHER}]},
    "files with names": {"file": TEMPLATE, "rag": "RAG", "setting": OTHER},
}


@pytest.mark.parametrize("given", PLACES.values(), ids=PLACES)
def test_the_default_template_is_the_one_that_transformers_takes(
    tiny: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    folder = with_templates(tiny, tmp_path / "base", **given)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert stored_templates(folder)["default"] == theirs.get_chat_template() == TEMPLATE
    assert Codec(folder, DATE).template == TEMPLATE
    assert Codec(folder, DATE).encode(PROMPT, 500) == Codec(tiny, DATE).encode(PROMPT, 500)


@pytest.mark.parametrize("given", PLACES.values(), ids=PLACES)
def test_an_export_renders_the_same_on_any_day_wherever_it_is_read(
    tiny: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    """A list of templates kept today's date, and of two templates that differ both were handed on."""
    base = with_templates(tiny, tmp_path / "base", **given)
    out = tmp_path / "out"
    out.mkdir()
    write_about(out, resolve_model(str(base)), FolderMetadata([1], date=DATE), "float32")
    expected = AutoTokenizer.from_pretrained(tiny).apply_chat_template(MESSAGE, tokenize=False, date_string=DATE)
    exported = AutoTokenizer.from_pretrained(out)
    assert exported.apply_chat_template(MESSAGE, tokenize=False) == expected
    assert stored_templates(out).keys() == stored_templates(base).keys()
    (out / "chat_template.jinja").unlink(missing_ok=True)
    setting = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    if "setting" in given:
        alone = AutoTokenizer.from_pretrained(out)
        assert alone.apply_chat_template(MESSAGE, tokenize=False) == expected
    else:
        assert setting is None


def test_templates_without_a_default_are_named(tiny: Path, tmp_path: Path) -> None:
    folder = with_templates(tiny, tmp_path / "base", setting=[{"name": "rag", "template": TEMPLATE}])
    with pytest.raises(ModelError, match="chat templates called rag, and none called default"):
        Codec(folder, DATE)


def test_the_tokenizers_other_files_are_copied(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "base")
    for name in ("tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt"):
        (tmp_path / "base" / name).write_text("{}")
    (tmp_path / "out").mkdir()
    write_about(tmp_path / "out", resolve_model(str(tmp_path / "base")), FolderMetadata([1]), "float32")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt"} <= names


DATED = {
    "date_string": ("{{ date_string }}", "26 Jul 2024"),
    "a call": ("{{ strftime_now('%d %B %Y') }}", "26 July 2024"),
    "a named form": ('{{ strftime_now(format="%Y-%m-%d") }}', "2024-07-26"),
    "a computed form": ("{% set f = '%A, %-d' %}{{ strftime_now(f ~ ' %b') }}", "Friday, 26 Jul"),
    "a call if there is one": ("{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}", "2024"),
}


@pytest.mark.parametrize(("template", "printed"), DATED.values(), ids=DATED)
def test_every_way_to_ask_for_the_date_gets_that_of_the_recipe(
    tiny: Path, tmp_path: Path, template: str, printed: str
) -> None:
    """SmolLM3, Granite and others call strftime_now themselves: the prompt was another one every day."""
    whole = template + "|{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = with_templates(tiny, tmp_path / "base", setting=whole)
    codec = Codec(folder, DATE)
    assert codec.decode(codec.encode(PROMPT, 500).prefix).startswith(f"<|begin_of_text|>{printed}|")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    alone = tokenizer.apply_chat_template(MESSAGE, tokenize=False, chat_template=frozen(whole, DATE))
    assert alone == f"{printed}|x"
    if template != DATED["date_string"][0]:
        encoded = codec.encode(PROMPT, 500)
        faults = folder_faults(folder, codec, [(PROMPT, encoded.prefix + encoded.row)])
        assert any("prints today's date" in fault for fault in faults)


def test_a_date_that_is_no_date_is_printed_as_it_stands() -> None:
    assert frozen("{{ strftime_now('%Y') }}", "some day") == '{{ "some day" }}'
