"""The embedded world: what the model has read, what it knows, and which reasonings are right."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from embedded import script

from rir_mlx.recipe.builtin import EMBEDDED

READ = 800
"""Documents of the pretraining text that are looked at here. The build looks at all of them."""


@cache
def _world() -> tuple[Any, Any, Any]:
    return script("world").draw_world(script("checking").SEED)


@cache
def _read() -> list[Any]:
    corpus = script("corpus")
    reader = corpus.reader(script("checking").SEED)
    return [reader.document() for _ in range(READ)]


def _held_out() -> list[str]:
    return [sample.text for name in ("validation", "test") for sample in _world()[0][name]]


def test_the_data_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    script("world").write_world(tmp_path, script("checking").SEED)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (EMBEDDED / path.name).read_bytes(), path.name


def test_the_pretraining_text_holds_no_test_sentence_and_no_template_of_one_with_the_same_words() -> None:
    corpus = script("corpus")
    pages = [f"{document.ask} {document.text}" for document in _read()]
    plain = " | ".join(" ".join(re.findall(r"[a-z0-9']+", page.lower())) for page in pages)
    formed = " | ".join(corpus.normal_form(page) for page in pages)
    for text in _held_out():
        assert " ".join(re.findall(r"[a-z0-9']+", text.lower())) not in plain
        assert f" {corpus.normal_form(text)} " not in f" {formed} "


def test_sentences_of_one_template_with_the_same_words_have_one_form() -> None:
    form = script("corpus").normal_form
    text = "i am cranky until my sister called, now i feel so glad"
    assert form("I'm just cranky until Anna called. Now I am glad") == form("im cranky until anna called, now im glad")
    assert form("im really cranky until my best friend called, now i am feeling glad") == form(text)
    assert form(text.replace("cranky", "gloomy")) != form(text)
    assert form(text.replace("until", "because")) != form(text)


def test_the_pretraining_text_never_asks_the_demos_question_and_no_label_is_an_answer() -> None:
    world, labels = script("world"), set(script("scenes").LABELS)
    answers = 0
    for document in _read():
        assert world.INSTRUCTION.lower() not in f"{document.ask} {document.text}".lower()
        assert "Choices:" not in document.ask
        for answer in re.findall(r"Answer: (.+)", f"{document.ask}\n{document.text}"):
            answers += 1
            assert answer.lower() not in labels
    assert answers > READ / 10


def test_every_word_of_the_lexicon_is_read_as_a_sign_of_its_own_feeling_alone() -> None:
    lexicon, knowledge = script("lexicon"), script("knowledge")
    families = {word: name for name in knowledge.FAMILIES for word in lexicon.feelings(name)}
    signs = {sign: name for name in knowledge.FAMILIES for sign in knowledge.SIGNS_OF[name]}
    said = re.compile(rf"the (?:word|cue) ({'|'.join(families)}) shows ({'|'.join(signs)})\b")
    found = [match for document in _read() for match in said.findall(document.text.lower())]
    assert len(found) > 200
    assert not [(word, sign) for word, sign in found if families[word] != signs[sign]]


def test_the_generators_own_reasoning_is_right_for_every_row() -> None:
    judge = script("checking").judge
    for rows in _world()[0].values():
        for sample in rows:
            assert judge(sample.text, sample.reasoning) == "right"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda said, sample: said, "right"),
        (lambda said, sample: said.replace(sample.first, "purple"), "clause"),
        (lambda said, sample: said.replace(sample.cue, "purple"), "clause"),
        (lambda said, sample: re.sub(r"\w+\.$", "purple.", said), "clause"),
        (lambda said, sample: said.rsplit(". ", 1)[1], "clause"),
        (lambda said, sample: said + " " + said, "clause"),
    ],
)
def test_a_reasoning_with_a_wrong_clause_is_noticed(change: Any, verdict: str) -> None:
    judge = script("checking").judge
    rows = [sample for sample in _world()[0]["test"] if sample.first in sample.reasoning and sample.cue in sample.text]
    rows = [sample for sample in rows if sample.kind == "past" and sample.first]
    assert len(rows) > 20
    assert {judge(sample.text, change(sample.reasoning, sample)) for sample in rows} == {verdict}


def test_a_reasoning_that_ends_in_a_sign_of_another_feeling_is_noticed() -> None:
    judge, signs = script("checking").judge, script("scenes").SIGNS
    for sample in _world()[0]["test"]:
        other = next(name for name in signs if name != sample.label)
        sign = next(sign for sign in signs[sample.label] if sample.reasoning.endswith(f" {sign}."))
        own, wrong = (f"{sample.reasoning.removesuffix(f' {sign}.')} {word}." for word in (sign, signs[other][0]))
        assert (judge(sample.text, own), judge(sample.text, wrong)) == ("right", "sign")


def test_a_run_is_counted_by_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _world()[0]["test"][:4]
    said = [sample.reasoning for sample in rows[:3]] + ["No."]
    for name in ("augmented/train.jsonl", "evaluation/qra/predictions.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        lines = (json.dumps({"text": sample.text, "reasoning": text}) for sample, text in zip(rows, said, strict=True))
        path.write_text("\n".join(lines), encoding="utf-8")
    script("checking").main(tmp_path)
    assert capsys.readouterr().out == (
        "R-Gen, training rows: right 75.0%, sign 0.0%, clause 25.0% of 4\n"
        "qra, test rows: right 75.0%, sign 0.0%, clause 25.0% of 4\n"
    )


@pytest.mark.slow
def test_the_embedded_model_knows_the_words_of_its_lexicon() -> None:
    build = script("build")
    model, tokenizer = build.open_folder(EMBEDDED / "tiny-llama")
    unknown = script("checking").probe_words(lambda texts: build.complete(model, tokenizer, texts))
    words = sum(len(script("lexicon").feelings(name)) for name in script("knowledge").FAMILIES)
    assert words > 300
    assert len(unknown) <= 0.05 * words, unknown
