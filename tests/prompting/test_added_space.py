"""Tokenizers of SentencePiece's kind put a space before every text; a prompt in parts has only those of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rir_convert.cards.program import example_code
from rir_convert.prompt_parts import prompt_around
from tiny import make_tiny_llama, make_tiny_sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rir_mlx.errors import ModelError
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER, LabelQuestion, Prompt, classifier_prompt, label_text, rgen_prompt

DATE, LABELS = "26 Jul 2024", {"joy": "feels good", "sadness": "", "anger": ""}
KINDS = [("llama2", False), ("llama2", True), ("phi3", False), ("phi3", True), ("none", False), ("none", True)]
TEXTS = ["i feel happy today", "two  spaces  here", " a space before", "na\u00efve \u4f60\u597d", "x</s>y", "a\nb"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    made: dict[tuple[str, bool], Path] = {}

    def get(template: str, metaspace: bool) -> Path:
        if (template, metaspace) not in made:
            folder = tmp_path_factory.mktemp("sentencepiece") / "base"
            made[template, metaspace] = make_tiny_sentencepiece(folder, template, metaspace=metaspace)
        return made[template, metaspace]

    return get


Folders = Callable[[str, bool], Path]


def asks(text: str) -> Prompt:
    return classifier_prompt(text, LABELS, "Which label fits the text?", "label")


def whole_ids(folder: Path, message: str, after: str) -> tuple[int, ...]:
    """As a server tokenises it: the rendered conversation, in one piece."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        return tuple(tokenizer(message + "\n\n" + after)["input_ids"])
    messages = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer(text + after, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("template", "metaspace"), KINDS)
def test_a_prompt_in_parts_has_the_ids_of_the_whole(folders: Folders, template: str, metaspace: bool) -> None:
    """Each part got a space of its own: double blanks between them, and at the start of every text."""
    folder = folders(template, metaspace)
    encoded = Codec(folder, DATE).encode(asks(TEXTS[0]), 10_000)
    assert encoded.prefix + encoded.row == whole_ids(folder, asks(TEXTS[0]).message, "Label:")


@pytest.mark.parametrize(("template", "metaspace"), KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_decode_to_the_text_with_every_space_that_it_has(
    folders: Folders, template: str, metaspace: bool, text: str
) -> None:
    codec = Codec(folders(template, metaspace), DATE)
    for prompt in (asks(text), rgen_prompt(text, "joy"), LabelQuestion(list(LABELS), "Which?").of_row(text, "joy")):
        encoded = codec.encode(prompt, 10_000)
        assert prompt.message in codec.decode(encoded.prefix + encoded.row)
    assert codec.decode(codec.given(text)) == text


@pytest.mark.parametrize("metaspace", [False, True])
def test_a_label_is_the_word_with_one_space(folders: Folders, metaspace: bool) -> None:
    codec = Codec(folders("llama2", metaspace), DATE)
    spell = codec.tokenizer.convert_ids_to_tokens
    joy = codec.given(label_text("joy"))
    assert "".join(spell(list(joy))) == "▁joy"
    ids = codec.given("because of it") + codec.constant(DELIMITER) + joy
    assert codec.decode(ids) == f"because of it{DELIMITER} joy"
    assert not {"</s>", "<s>"} & set(spell(list(codec.given("x</s>y<s>"))))


@pytest.mark.parametrize(("template", "metaspace"), KINDS)
def test_the_program_on_a_card_gives_the_same_ids(folders: Folders, template: str, metaspace: bool) -> None:
    """Exports ended in "The prompt is not what its parts are when they are tokenised one by one"."""
    folder = folders(template, metaspace)
    codec, task = Codec(folder, DATE), ClassificationTask(LABELS, "Which label fits the text?", 320, 12)
    text = TEXTS[1]
    code = example_code("qa", task, codec, text=text)
    before_the_model, _, rest = code.partition("model = AutoModelForCausalLM")
    shown: dict[str, object] = {}
    exec(before_the_model.replace('MODEL = "."', f"MODEL = {str(folder)!r}"), shown)
    exec("def ids_of" + rest.partition("def ids_of")[2].partition("@torch")[0], shown)
    encoded = codec.encode(asks(text), 10_000)
    assert isinstance(shown["tokenizer"], PreTrainedTokenizerFast)
    assert tuple(eval("prompt_of(QUESTION, AFTER)", shown)) == encoded.prefix + encoded.row
    assert tuple(eval("ids_of(' joy', plain=True)", shown)) == codec.given(" joy")
    before, question, after = prompt_around(codec, asks(text))
    assert before + question + text + after == codec.decode(encoded.prefix + encoded.row)


def test_a_tokenizer_whose_parts_are_not_the_whole_is_refused_at_the_start(tmp_path: Path) -> None:
    """One that drops line breaks at the end of a part joins the text to the instruction."""
    folder = make_tiny_sentencepiece(tmp_path / "base")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    drops = {"type": "Replace", "pattern": {"Regex": "\n$"}, "content": ""}
    tokenizer["normalizer"]["normalizers"].append(drops)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ModelError, match="other ids in parts than as a whole"):
        Codec(folder, DATE)


def test_a_tokenizer_that_adds_no_space_is_used_as_it_is(codec: Codec) -> None:
    assert codec.steps_without_space is None
    assert codec.spelt("a <|eot_id|>") == codec.constant("a <|eot_id|>")


def retokenised(folder: Path, word: str, *, special: bool, **settings: object) -> Path:
    """A tiny model whose tokenizer has a token more than its embedding has rows."""
    make_tiny_llama(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    token = {"id": rows, "content": word, "special": special, "normalized": False}
    sides = {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append(token | sides)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("special", "settings"), [(True, {"pad_token": "[PAD]"}), (False, {})])
def test_a_token_that_the_embedding_has_no_row_for_is_named(
    tmp_path: Path, special: bool, settings: dict[str, object]
) -> None:
    """A padding token was added to the tokenizer, and the model was not resized."""
    folder = retokenised(tmp_path / "base", "[PAD]", special=special, **settings)
    with pytest.raises(ModelError, match=r"rows: none for '\[PAD\]'") as refused:
        Codec(folder, DATE)
    assert "resize_token_embeddings" in refused.value.hint


def test_a_control_token_without_a_row_is_allowed_until_the_template_writes_it(tmp_path: Path) -> None:
    """Gemma 3's tokenizer has a token for images that its text model has no row for."""
    folder = retokenised(tmp_path / "base", "<image>", special=True)
    codec = Codec(folder, DATE)
    assert all(token < codec.tokenizer.vocab_size for token in codec.given("a <image> of joy"))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["chat_template"] = "<image>" + settings["chat_template"]
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match="writes '<image>', for which the embedding has no row"):
        Codec(folder, DATE).encode(asks("x"), 1000)
