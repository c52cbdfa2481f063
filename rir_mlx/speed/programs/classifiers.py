"""Ways to classify that are compared: ours, writing the label out, and a pass for each label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rir_mlx.backends.base import Request, Sampling, Tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import DELIMITER
from rir_mlx.speed.job import PeerJob
from rir_mlx.speed.programs.writers import write_mlx_lm, write_transformers
from rir_mlx.speed.rows import LABELS, Given

PEERS = {"ours": 1, "generate-rows": 20, "generate-batch": 4, "label-passes": 10}
"""Who classifies, and how many times fewer rows it gets in `benchmarks.classify`."""


@dataclass(frozen=True)
class Answers:
    """Of each row the prompt that was scored, the probabilities of the labels, or the label that was read."""

    prompts: Sequence[Tokens] = ()
    probabilities: Sequence[Sequence[float]] = ()
    labels: Sequence[int | None] = ()


@dataclass(frozen=True)
class _Alone:
    """A job whose rows go through the model one by one."""

    peer: str
    backend: str
    folder: str
    dtype: str
    batch: int = 1


def classify_ours(job: PeerJob, model: Any, given: Given) -> Answers:
    prompts = given.rows
    if given.delimiter:
        sampling = Sampling(max_tokens=max(given.lengths) + len(given.delimiter), batch_size=job.batch)
        requests = given.requests(len(given.delimiter))
        written = model.generate(requests, sampling, prefix=given.prefix)
        prompts = given.reasoned((generated.key, generated.tokens) for generated in written)
    scores = model.score(prompts, given.options, prefix=given.prefix, batch_size=job.batch)
    return Answers(prompts, shares(scores))


def classify_generate(job: PeerJob, model: Any, given: Given) -> Answers:
    """The label as it is written, by its text; None where that is no label."""
    longest = len(given.delimiter) + max(map(len, given.options))
    texts = dict(write(job, model, given.prefix, given.requests(longest)))
    return Answers(labels=[read_label(given.codec, texts[i]) for i in range(len(given.rows))])


def write(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[tuple[int, Tokens]]:
    if job.backend == "torch":
        alone = _Alone(job.peer, job.backend, job.folder, job.dtype) if job.peer == "generate-rows" else job
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


def classify_passes(job: PeerJob, model: Any, given: Given) -> Answers:
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
