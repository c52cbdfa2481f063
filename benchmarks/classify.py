"""Classifying texts: this toolkit beside writing the label out, and beside a pass for each label, on the same weights.

    python -m benchmarks.classify [--backend torch] [--layers 4] [--data train.csv] [--rows 2000] [--repeats 3]

Six labels, with and without a reasoning before them, the same token ids for all. Texts are the first `--rows` of the
file, else of the embedded data. How many tokens a reasoning has is drawn evenly from 10 to 120 with a fixed seed,
greedily, and nothing ends it earlier. All get plain weights. Each classifies in a process of its own, in turn, the
whole round repeated, after a warm-up that is not counted.

  ours           one run of the prefix, then `Model.score`, rows sorted by length, as `Classifier.predict` does it; a
                 reasoning is written before by `Model.generate`, rows entering as others leave
  generate-rows  `generate` of transformers, or mlx-lm's `generate_step`, a row at a time: the reasoning if there is
                 one, the delimiter, the label and its terminator; then the label is read from the text
  generate-batch the same by `generate` on left-padded batches, sorted by length; `mlx_lm.batch_generate`
  label-passes   probabilities without a cache: the whole prompt with each label, a label at a time over a batch of
                 rows, only the label's positions projected; a reasoning is written before as in generate-batch

The slower ones get fewer rows, evenly spaced in those of ours, and a reasoning makes five times fewer of all: rows a
second are compared. "Tokens" are those that enter the model for a row, padding included. Memory is the peak above the
loaded weights; on a processor that of resident pages, with what the allocator keeps.

At the end the embedded model, after a short training that makes it write labels, classifies in float32: ours and
label-passes must give the same probabilities to 1e-4, and it is counted how often generate-batch writes the label that
is likeliest for ours.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generate import LENGTHS, count_tokens, load, report_machine, write_mlx_lm, write_transformers
from benchmarks.shapes import make_shape
from benchmarks.train import INSTRUCTION, LABELS, SHAPES, watch_memory
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import (
    OptimizerSpec,
    Request,
    Sampling,
    Tokens,
)
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.arms import ClassificationTask, label_tokens, training_examples
from rir_mlx.prompting.batches import step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER, answer_format, classifier_prompt
from rir_mlx.recipe.builtin import EMBEDDED
from rir_mlx.recipe.loading import load_recipe

DATA = Path("../shared/data/emotion/train.csv")
DATE = "26 Jul 2024"
TASKS = {"label": "qa", "reasoning": "qra"}
PEERS = {"ours": 1, "generate-rows": 20, "generate-batch": 4, "label-passes": 10}
"""Who classifies, and how many times fewer rows it gets."""
CHECKED = 96
"""Rows that are compared in float32."""


@dataclass(frozen=True)
class Job:
    """One peer on one task, once: `rows` of the first `total` texts."""

    peer: str
    task: str
    backend: str
    folder: str
    dtype: str
    batch: int
    rows: int
    total: int
    data: str | None


@dataclass(frozen=True)
class Given:
    """What is classified: prompts behind a prefix, the labels with their terminator, and how long the reasonings are
    (0 without one)."""

    codec: Codec
    prefix: Tokens
    rows: list[Tokens]
    lengths: list[int]
    options: list[Tokens]
    delimiter: Tokens

    def select(self, chosen: Sequence[int]) -> Given:
        return replace(self, rows=[self.rows[i] for i in chosen], lengths=[self.lengths[i] for i in chosen])

    def requests(self, after: int) -> list[Request]:
        """Sorted by length; what is written is a reasoning and `after` more tokens."""
        pairs = enumerate(zip(self.rows, self.lengths, strict=True))
        made = [Request(key, row, max_tokens=length + after) for key, (row, length) in pairs]
        return sorted(made, key=lambda request: len(request.tokens))

    def reasoned(self, written: Iterator[tuple[int, Tokens]]) -> list[Tokens]:
        """The prompts with their reasonings and the delimiter."""
        texts = dict(written)
        pairs = enumerate(zip(self.rows, self.lengths, strict=True))
        return [row + texts[key][:length] + self.delimiter for key, (row, length) in pairs]


@dataclass(frozen=True)
class Answers:
    """Of each row the prompt that was scored, the probabilities of the labels, or the label that was read."""

    prompts: Sequence[Tokens] = ()
    probabilities: Sequence[Sequence[float]] = ()
    labels: Sequence[int | None] = ()


def make_given(codec: Codec, job: Job) -> Given:
    encoded = [
        codec.encode(classifier_prompt(text, LABELS, INSTRUCTION, answer_format(TASKS[job.task])), 512)
        for text, _ in read_rows(job.data, job.total)
    ]
    lengths = np.random.default_rng(0).integers(LENGTHS.start, LENGTHS.stop, job.total).tolist()
    given = Given(
        codec,
        encoded[0].prefix,
        [text.row for text in encoded],
        lengths if job.task == "reasoning" else [0] * job.total,
        [label_tokens(codec, label) for label in LABELS],
        codec.constant(DELIMITER) if job.task == "reasoning" else (),
    )
    return given.select(np.linspace(0, job.total - 1, job.rows).astype(int).tolist())


def read_rows(data: str | None, count: int | None = None) -> list[tuple[str, str]]:
    """Texts and labels of a CSV file, or of the embedded data, whose texts are joined in pairs to be as long."""
    if data:
        with Path(data).open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)][:count]
    rows = load_labelled(load_recipe("demo").data, seed=0).train
    joined = (f"{row.text}. {other.text}" for row, other in zip(rows, reversed(rows), strict=True))
    return list(zip(joined, cycle(LABELS), strict=False))[:count]


def classify_ours(job: Job, model: Any, given: Given) -> Answers:
    prompts = given.rows
    if given.delimiter:
        sampling = Sampling(max_tokens=LENGTHS[-1] + len(given.delimiter), batch_size=job.batch)
        requests = given.requests(len(given.delimiter))
        written = model.generate(requests, sampling, prefix=given.prefix)
        prompts = given.reasoned((generated.key, generated.tokens) for generated in written)
    scores = model.score(prompts, given.options, prefix=given.prefix, batch_size=job.batch)
    return Answers(prompts, shares(scores))


def classify_generate(job: Job, model: Any, given: Given) -> Answers:
    """The label as it is written, by its text; None where that is no label."""
    longest = len(given.delimiter) + max(map(len, given.options))
    texts = dict(write(job, model, given.prefix, given.requests(longest)))
    return Answers(labels=[read_label(given.codec, texts[i]) for i in range(len(given.rows))])


def write(job: Job, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[tuple[int, Tokens]]:
    if job.backend == "torch":
        alone = replace(job, batch=1) if job.peer == "generate-rows" else job
        yield from write_transformers(alone, model, prefix, requests)
    elif job.peer == "generate-rows":
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        for request in requests:
            steps = generate_step(mx.array([*prefix, *request.tokens]), model, max_tokens=request.max_tokens)
            yield request.key, tuple(int(token) for token, _ in steps)
    else:
        yield from write_mlx_lm(job, model, prefix, requests)


def read_label(codec: Codec, tokens: Tokens) -> int | None:
    ends = [at for at, token in enumerate(tokens) if token == codec.terminator]
    text = codec.decode(tokens[: ends[0]] if ends else tokens).rpartition(DELIMITER)[2].strip()
    names = list(LABELS)
    return names.index(text) if text in names else None


def classify_passes(job: Job, model: Any, given: Given) -> Answers:
    prompts = given.rows
    if given.delimiter:
        prompts = given.reasoned(write(job, model, given.prefix, given.requests(len(given.delimiter))))
    scores = np.zeros((len(prompts), len(given.options)))
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    run = passes_torch if job.backend == "torch" else passes_mlx
    for start in range(0, len(order), job.batch):
        chosen = order[start : start + job.batch]
        whole = [given.prefix + prompts[index] for index in chosen]
        for column, option in enumerate(given.options):
            scores[chosen, column] = run(model, whole, option)
    return Answers(prompts, shares(scores))


def passes_torch(model: Any, prompts: Sequence[Tokens], option: Tokens) -> Any:
    import torch

    width = max(map(len, prompts)) + len(option)
    ids, mask = torch.zeros((2, len(prompts), width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens = torch.tensor([*prompt, *option])
        ids[row, -len(tokens) :], mask[row, -len(tokens) :] = tokens, 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    settings = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
    with torch.inference_mode():
        logits = model(ids, **settings, logits_to_keep=len(option) + 1).logits[:, :-1].float()
        log_probabilities = torch.log_softmax(logits, -1).gather(-1, ids[:, -len(option) :, None])
        return log_probabilities.sum((1, 2)).double().cpu().numpy()


def passes_mlx(model: Any, prompts: Sequence[Tokens], option: Tokens) -> Any:
    import mlx.core as mx

    width = max(map(len, prompts)) + len(option)
    ids = mx.array([[*prompt, *option, *[0] * (width - len(prompt) - len(option))] for prompt in prompts])
    starts = mx.array([len(prompt) - 1 for prompt in prompts])[:, None]
    hidden = model.model(ids)[mx.arange(len(prompts))[:, None], starts + mx.arange(len(option))]
    tied = model.args.tie_word_embeddings
    logits = (model.model.embed_tokens.as_linear if tied else model.lm_head)(hidden).astype(mx.float32)
    log_probabilities = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    words = mx.broadcast_to(mx.array(option), hidden.shape[:2])[..., None]
    return np.array(mx.take_along_axis(log_probabilities, words, axis=-1).sum(axis=(1, 2)))


def shares(scores: Any) -> list[list[float]]:
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: list[list[float]] = (probabilities / probabilities.sum(axis=1, keepdims=True)).tolist()
    return result


CLASSIFY = dict.fromkeys(("generate-rows", "generate-batch"), classify_generate)
CLASSIFY |= {"ours": classify_ours, "label-passes": classify_passes}


def work(job: Job) -> dict[str, Any]:
    given = make_given(Codec(Path(job.folder), DATE), job)
    model, place = load(job)  # type: ignore[arg-type]  # of whose job it reads what this one has too
    counts, peak, classify = count_tokens(job.backend), watch_memory(place), CLASSIFY[job.peer]
    classify(job, model, given.select(range(min(4, job.rows))))
    counts.update(prompt=0, steps=0)
    start = time.perf_counter()
    answers = classify(job, model, given)
    seconds = time.perf_counter() - start
    lengths = f"{len(given.prefix)} tokens of prefix, {statistics.mean(map(len, given.rows)):.1f} of a row's own"
    measured = {"seconds": seconds, "rows": job.rows, "rows/s": job.rows / seconds, "peak GB": peak()}
    measured |= {"tokens a row": sum(counts.values()) / job.rows, "lengths": lengths}
    return measured | asdict(answers) | {"device": open_backend(job.backend).device().name}


def run_job(job: Job, device: str) -> dict[str, Any]:
    """What a process of its own measured."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, "-m", "benchmarks.classify", "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{job.task}, {job.peer}: {job.rows} rows, {measured['rows/s']:.2f} rows/s", file=sys.stderr)
    return measured


def rows_of(peer: str, task: str, options: argparse.Namespace) -> tuple[int, int]:
    """How many rows a peer gets, and of how many: whole batches, where there is more than one."""
    total = max(1, options.rows // (5 if task == "reasoning" else 1))
    rows = max(1, total // PEERS[peer])
    whole = rows // options.batch * options.batch
    return (whole if whole and peer != "ours" else rows), total


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterator[str]:
    heads = ["task", "peer", "rows", "rows/s", "`ours` is faster by", "tokens a row", "memory"]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for (task, peer), rounds in results.items():
        rates, mine = [result["rows/s"] for result in rounds], results.get((task, "ours"), [])
        ratios = [result["rows/s"] / rate for result, rate in zip(mine, rates, strict=False)]
        cells = [task, peer, str(rounds[0]["rows"])]
        cells += [f"{statistics.median(rates):.3g} ({min(rates):.3g}–{max(rates):.3g})"]
        cells += [f"{statistics.median(ratios):.2f} ×" if ratios and peer != "ours" else ""]
        cells += [
            f"{rounds[0]['tokens a row']:.1f}",
            f"{statistics.median(result['peak GB'] for result in rounds):.2f} GB",
        ]
        yield f"| {' | '.join(cells)} |"


def train_briefly(backend: str, folder: Path, data: str | None, steps: int) -> None:
    """The embedded model after some steps on rows that are not compared: 150 make it write a label and end, more make
    it tell labels apart."""
    shutil.copytree(EMBEDDED / "tiny-llama", folder)
    codec, task = Codec(folder, DATE), ClassificationTask(LABELS, INSTRUCTION, 512, LENGTHS[-1])
    rows = [Row(text, label) for text, label in read_rows(data)[CHECKED:]]
    examples = training_examples(codec, task, rows, "qa")
    model: Any = open_backend(backend).load(folder, dtype="float32")  # type: ignore[arg-type]
    model.add_adapter(AdapterSpec("full"), seed=0)
    model.configure_optimizer(OptimizerSpec())
    rng = np.random.default_rng(0)
    for _ in range(steps):
        group = rng.choice(len(examples.rows), 16, replace=False).tolist()
        model.train_step(step_batches(examples, [group]), 1e-3)
    from safetensors.numpy import save_file

    save_file(model.trained_tensors(), folder / "model.safetensors", {"format": "pt"})


def check(options: argparse.Namespace, folder: Path, data: str | None) -> Iterator[str]:
    """What the peers answer in float32, beside ours. Raises AssertionError where probabilities differ."""
    train_briefly(options.backend, folder, data, options.check_steps)
    for task in TASKS:
        job = Job("ours", task, options.backend, str(folder), "float32", options.batch, CHECKED, CHECKED, data)
        mine, passes = (run_job(replace(job, peer=peer), options.device) for peer in ("ours", "label-passes"))
        same = [a == b for a, b in zip(mine["prompts"], passes["prompts"], strict=True)]
        probabilities = (np.array(answers["probabilities"])[same] for answers in (mine, passes))
        difference = float(np.abs(np.subtract(*probabilities)).max())
        assert difference < 1e-4, f"{task}: the probabilities of ours and label-passes differ by {difference:.2g}"
        yield f"Embedded model, float32, {task}: ours and label-passes saw the same prompt in {sum(same)} of {CHECKED}"
        yield f"rows, and their probabilities differ by {difference:.1g} there at most."
        if task == "label":
            written = run_job(replace(job, peer="generate-batch"), options.device)["labels"]
            likeliest = np.argmax(mine["probabilities"], axis=1).tolist()
            agree = sum(label == other for label, other in zip(written, likeliest, strict=True))
            yield f"generate-batch wrote ours's likeliest label in {agree} rows, another in"
            yield f"{CHECKED - agree - written.count(None)}, and none in {written.count(None)};"
            yield f"ours has {len(set(likeliest))} different labels."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=sorted(SHAPES), default="torch")
    parser.add_argument("--model", help="a folder or name, instead of random weights of the following shape")
    for name, what in {"hidden": "width, a multiple of 64", "layers": "layers", "vocab": "4096 or more"}.items():
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on torch, float32 on mlx")
    parser.add_argument("--data", type=Path, help=f"a CSV file with the columns text and label ({DATA} if there)")
    for name, default, what in (
        ("rows", 2000, "rows of ours"),
        ("batch", 32, "rows at a time"),
        ("repeats", 3, "rounds"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="cpu hides a CUDA device")
    for name, known in (("tasks", TASKS), ("peers", PEERS)):
        parser.add_argument(
            f"--{name}", default=",".join(known), help="some of them, with commas between (%(default)s)"
        )
    parser.add_argument("--check-steps", type=int, default=600, help="of the training before the end (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, default in zip(("hidden", "layers", "vocab"), SHAPES[options.backend], strict=True):
        setattr(options, name, getattr(options, name) or default)
    options.dtype = options.dtype or ("bfloat16" if options.backend == "torch" else "float32")
    options.data = options.data or (DATA if DATA.is_file() else None)
    for name, known in (("tasks", TASKS), ("peers", PEERS)):
        setattr(options, name, [part for part in getattr(options, name).split(",") if part])
        if odd := set(getattr(options, name)) - set(known):
            parser.error(f"--{name}: {min(odd)} is none of {', '.join(known)}")
    return options


def main() -> None:
    options = parse()
    if options.job:
        with contextlib.redirect_stdout(sys.stderr):
            measured = work(Job(**json.loads(options.job)))
        print(json.dumps(measured))
        return
    data = str(options.data.resolve()) if options.data else None
    if (found := len(read_rows(data))) < options.rows:
        print(f"{data or 'The embedded data'} has {found} rows, fewer than --rows {options.rows}.", file=sys.stderr)
        options.rows = found
    results: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = resolve_model(options.model).folder if options.model else Path(temporary) / "model"
        if not options.model:
            make_shape(folder, options.hidden, options.layers, options.vocab)
        for _, task, peer in product(range(options.repeats), options.tasks, options.peers):
            rest = (options.backend, str(folder), options.dtype, options.batch, *rows_of(peer, task, options), data)
            results[task, peer].append(run_job(Job(peer, task, *rest), options.device))
        print("\n".join(report(results)))
        for rounds in list(results.values())[:1]:
            print(report_machine(options, rounds[0]))
        print()
        print("\n".join(check(options, Path(temporary) / "embedded", data)))
    if options.json:
        named = {f"{task}, {peer}": rounds for (task, peer), rounds in results.items()}
        options.json.write_text(json.dumps({"options": vars(options), "results": named}, default=str))


if __name__ == "__main__":
    main()
