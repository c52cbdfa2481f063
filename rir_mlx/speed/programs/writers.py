"""The programs that write texts after prompts: `ours`, transformers and mlx-lm, each as its users call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Request, Sampling, Tokens
from rir_mlx.speed.job import PeerJob
from rir_mlx.speed.rows import MOST_TOKENS

Row = tuple[int, Tokens]
"""A request's key, and what its row was continued with."""


def count_tokens(backend: str) -> dict[str, int]:
    """Counts what enters the model from now on: `steps` where it is one token a row, else `prompt`."""
    module = import_module("mlx.nn" if backend == "mlx" else "torch.nn.functional")
    owner, name = (module.Embedding, "__call__") if backend == "mlx" else (module, "embedding")
    embed, counts = getattr(owner, name), {"prompt": 0, "steps": 0}

    def counted(*given: Any, **named: Any) -> Any:
        ids = given[int(backend == "mlx")]
        counts["steps" if ids.shape[-1] == 1 else "prompt"] += int(np.prod(ids.shape))
        return embed(*given, **named)

    setattr(owner, name, counted)
    return counts


def load(job: PeerJob) -> tuple[Any, str]:
    """The peer's model, run once so that all weights are resident, and where it runs."""
    backend: Any = open_backend(job.backend)  # type: ignore[arg-type]
    backend.device()  # imports the framework: on Linux it finds a fast BLAS, for mlx-lm too
    place = "mlx" if job.backend == "mlx" else "cuda" if backend.facts().accelerator else "cpu"
    folder = Path(job.folder)
    if job.peer in OURS:
        model = backend.load(folder, dtype=job.dtype)
        model.logits((1, 2))
    elif place == "mlx":
        import mlx.core as mx
        from mlx_lm.utils import load_model

        model, _ = load_model(folder)
        model.set_dtype(getattr(mx, job.dtype))
        mx.eval(model.parameters(), model(mx.array([[1, 2]])))
    else:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        dtype = getattr(torch, job.dtype)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(place)
        model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)  # without an end-of-text token
        with torch.inference_mode():
            model(torch.tensor([[1, 2]], device=place))
    return model, place


def write_ours(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[Row]:
    sampling = Sampling(max_tokens=_most(requests), batch_size=job.batch)
    yield from ((generated.key, generated.tokens) for generated in model.generate(requests, sampling, prefix=prefix))


def write_launched(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[Row]:
    """`ours-copied` on a GPU without recorded steps: only those let rows share a prefix there."""
    model.record = None
    yield from write_copied(job, model, prefix, requests)


def write_copied(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[Row]:
    """`ours` with a copy of the prefix's keys and values for each row."""
    model.shares = False
    yield from write_ours(job, model, prefix, requests)


def write_transformers(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[Row]:
    import torch
    from transformers import StoppingCriteriaList

    for start in range(0, len(requests), job.batch):
        group = requests[start : start + job.batch]
        width = len(prefix) + max(len(request.tokens) for request in group)
        ids, mask = torch.zeros((2, len(group), width), dtype=torch.int64)
        for row, request in enumerate(group):
            prompt = torch.tensor([*prefix, *request.tokens])
            ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
        limits = torch.tensor([request.max_tokens for request in group], device=model.device)
        ended = StoppingCriteriaList([lambda seen, *_, ends=width + limits, **__: seen.shape[1] >= ends])
        given, length = {"attention_mask": mask.to(model.device), "stopping_criteria": ended}, int(limits.max())
        output = model.generate(ids.to(model.device), max_new_tokens=length, **given)
        for request, tokens in zip(group, output[:, width:].tolist(), strict=True):
            yield request.key, tuple(tokens[: request.max_tokens])


def write_continuous(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[Row]:
    """transformers' continuous batching. It never raises: a request that failed says so in its result."""
    from transformers import ContinuousBatchingConfig

    page, tokens = (256, None) if model.device.type == "cuda" else (32, 512)
    # A quarter more than a full batch needs: below 15 % of free pages no rows enter. The longest row is that of any
    # call, for the first one, a warm-up of few and short rows, makes the pages of all.
    blocks = 5 * job.batch * -(-MOST_TOKENS // page) // 4 + 1
    sizes = {"page_size": page, "num_blocks": blocks, "max_batch_tokens": tokens}
    config = ContinuousBatchingConfig(**sizes, max_requests_per_batch=job.batch)
    model.generation_config.eos_token_id = -1
    batching = model.continuous_batching_context_manager
    # The manager that the warm-up made is used again; what it remembers of prompts is cleared.
    with batching(continuous_batching_config=config, persistent_manager=True) as manager:
        for request in requests:
            prompt = [*prefix, *request.tokens]
            manager.add_request(prompt, request_id=str(request.key), max_new_tokens=request.max_tokens)
        for count, result in enumerate(manager, 1):
            if result.error is not None:
                raise RuntimeError(f"request {result.request_id} failed: {result.error}")
            yield int(result.request_id), tuple(result.generated_tokens)
            if count == len(requests):
                return
        raise RuntimeError(f"its thread ended: {manager.background_thread_status.fatal_error}")


def write_mlx_lm(job: PeerJob, model: Any, prefix: Tokens, requests: Sequence[Request]) -> Iterator[Row]:
    from mlx_lm import batch_generate

    endless = SimpleNamespace(eos_token_ids=[], decode=lambda tokens: "")  # all that it wants of a tokenizer
    prompts, limits = [[*prefix, *request.tokens] for request in requests], [request.max_tokens for request in requests]
    settings = {"completion_batch_size": job.batch, "return_token_ids": True}
    response = batch_generate(model, endless, prompts, max_tokens=limits, **settings)
    yield from ((request.key, tuple(map(int, ids))) for request, ids in zip(requests, response.token_ids, strict=True))


def _most(requests: Sequence[Request]) -> int:
    return max(request.max_tokens or 0 for request in requests)


LAUNCHED, COPIED = "ours-launched", "ours-copied"
OURS = {"ours": write_ours, LAUNCHED: write_launched, COPIED: write_copied}
SORTED = {*OURS, "transformers-sorted"}
THEIRS = dict.fromkeys(("transformers", "transformers-sorted"), write_transformers)
WRITERS = {
    "torch": OURS | THEIRS | {"generate_batch": write_continuous},
    "mlx": {"ours": write_ours, "batch_generate": write_mlx_lm},
}
