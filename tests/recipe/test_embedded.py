"""The embedded world: what the model has read, what it knows, and which reasonings are right."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from embedded import FOLDER, script

from rir_mlx.recipe.builtin import EMBEDDED

READ = 800
"""Documents of the pretraining text that are looked at here. The build looks at all of them."""
DIGEST = "811918348ac073c6"
"""Of these documents, as the model that ships has read them. Who changes it has to build the model again."""


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


def test_the_pretraining_text_is_the_same_in_every_process() -> None:
    digest = hashlib.sha256()
    for document in _read():
        digest.update(repr((document.ask, document.marked)).encode())
    assert digest.hexdigest()[: len(DIGEST)] == DIGEST


def test_no_writer_of_the_pretraining_text_feels_what_one_of_a_test_sentence_does_beside_its_other_feeling() -> None:
    """Looked up by the words alone, so that it does not rest on `normal_form`."""
    pages = [re.sub(r"[^a-z ]", "", f"{document.ask} {document.text}".lower()) for document in _read()]
    words = [set(page.split()) for page in pages]
    for sample in (sample for name in ("validation", "test") for sample in _world()[0][name] if sample.first):
        now = re.compile(rf"\bi(m|m feeling| am| feel| am feeling)?( \w+){{0,2}} {sample.cue}\b")
        assert now.search(sample.text)
        both = {sample.first, *sample.cue.split()}
        assert not [page for page, own in zip(pages, words, strict=True) if both <= own and now.search(page)]


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
        said = [text.strip(" .") for text, learned in document.pieces if learned]
        for answer in (*re.findall(r"Answer: (.+)", f"{document.ask}\n{document.text}"), *said):
            answers += 1
            assert answer.lower() not in labels
    assert answers > READ


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


@pytest.mark.parametrize("other", ["joy", "anger", "love", "surprise"])
def test_a_reasoning_that_ends_in_a_sign_of_another_feeling_is_noticed(other: str) -> None:
    judge, signs = script("checking").judge, script("knowledge").SIGNS_OF
    for sample in (sample for sample in _world()[0]["test"] if sample.label != other):
        sign = next(sign for sign in signs[sample.label] if sample.reasoning.endswith(f" {sign}."))
        own, wrong = (f"{sample.reasoning.removesuffix(f' {sign}.')} {word}." for word in (sign, signs[other][0]))
        assert (judge(sample.text, own), judge(sample.text, wrong)) == ("right", "sign")


def test_a_run_is_counted_by_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without a reasoning count as wrong if one was asked for, and rows that lost theirs count as rejected."""
    rows = _world()[0]["test"][:5]
    right = [sample.reasoning for sample in rows]
    files: dict[str, list[dict[str, Any]]] = {
        "augmented/train.jsonl": [{"reasoning": said} for said in (*right[:2], "No.")],
        "augmented/rejected.jsonl": [
            {"id": "train:3", "lost": True, "part": "train"}, {"id": "train:3", "lost": True, "part": "train"},
            {"id": "train:0", "lost": False, "part": "train"},
            {"id": "validation:3", "lost": True, "part": "validation"},
        ],
        "evaluation/qra/predictions.jsonl": [{"reasoning": said} for said in (*right[:3], "No.", "")],
        "evaluation/qa/predictions.jsonl": [{"reasoning": None}, {}],
    }  # fmt: skip
    for name, found in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"text": sample.text} | row) for sample, row in zip(rows, found, strict=False))
        path.write_text("\n".join(lines), encoding="utf-8")
    script("checking").main(tmp_path)
    assert capsys.readouterr().out == (
        "R-Gen, training rows: right 50.0%, clause 25.0%, rejected 25.0% of 4\n"
        "qra, test rows: right 60.0%, clause 40.0% of 5\n"
    )


@pytest.mark.slow
def test_the_embedded_model_knows_the_words_of_its_lexicon() -> None:
    build = script("build")
    model, tokenizer = build.open_folder(EMBEDDED / "tiny-llama")
    unknown = script("checking").probe_words(lambda texts: build.complete(model, tokenizer, texts))
    words = sum(len(script("lexicon").feelings(name)) for name in script("knowledge").FAMILIES)
    assert words > 300
    assert len(unknown) <= 0.05 * words, unknown


@pytest.mark.heavy
def test_the_same_seed_builds_the_same_model_and_tokenizer(tmp_path: Path) -> None:
    """The whole build on few documents, in two processes, which hash texts differently."""
    few = ["--documents", "40", "--copying-steps", "5"]
    for name in ("one", "two"):
        command = [sys.executable, str(FOLDER / "build.py"), *few, "--target", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"feelings-test.csv", "model.safetensors", "tokenizer.json"}
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
