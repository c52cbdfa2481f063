"""The trainers that are compared: `ours`, a PEFT loop by hand, TRL and mlx-lm, each as its users call it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Execution, pad_right
from rir_mlx.models.adapter_spec import LINEAR_KEYS, adapted_layers
from rir_mlx.models.config import read_config
from rir_mlx.models.families import ModelShape
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.examples import TrainingExamples
from rir_mlx.speed.fitting import fitting_rows
from rir_mlx.speed.job import OPTIMIZER, RATE, Job
from rir_mlx.speed.programs.meter import Meter
from rir_mlx.speed.rows import make_groups, whole
from rir_mlx.speed.work import Sizes, training


def train_ours(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    backend = open_backend("mlx" if job.backend == "mlx" else "torch")
    model: Any = backend.load(Path(job.folder), dtype=job.dtype)  # type: ignore[arg-type]
    model.logits((1, 2))
    width = 4 if job.dtype == "float32" else 2
    meter.loaded(model.parameters * width)
    model.add_adapter(job.spec, seed=0)
    model.configure_optimizer(OPTIMIZER, Execution(grad_checkpoint=job.grad_checkpoint))
    sizes = Sizes(ModelShape.of(read_config(Path(job.folder))), model.weight_bytes, width)
    if job.may_shrink:

        def step(rows: int) -> None:
            model.train_step(step_batches(examples, [range(rows)]), RATE)

        meter.batch = fitting_rows(step, job.batch, job.seconds)
        # Of fewer rows at a time, fewer in all: those that another program gets which has so many from the start.
        examples = replace(examples, rows=examples.rows[: len(groups) * meter.batch])
        groups = make_groups(examples, meter.batch)
        meter.begin()
    tokens = 0
    for group in meter.until_full(cycle(groups) if job.seconds else groups):
        answers = sum(len(examples.rows[index].answer) for index in group)
        reasonings = sum(len(examples.rows[index].reasoning) for index in group)
        weights = LossWeights(reasoning=reasonings / answers)
        batches = step_batches(examples, [group], weights=weights, shared_prefix=job.peer == "ours")
        loss = model.train_step(batches, RATE).loss
        meter.losses.append(loss * answers / (answers + reasonings))
        tokens += sum(batch.processed for batch in batches)
        meter.works.append(training(sizes, job.spec, batches))
        meter.step()
    meter.tokens = meter.tokens or tokens


def load_torch(job: Job, meter: Meter, dtype: str, attention: str = "sdpa") -> tuple[Any, Any]:
    """transformers' model, and PEFT's configuration of its LoRA."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    named = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(job.folder, dtype=named, attn_implementation=attention).to(meter.place)
    with torch.no_grad():
        model(torch.tensor([[1, 2]], device=meter.place))
    meter.loaded(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
    names, alpha = [key.rpartition(".")[2] for key in job.keys or LINEAR_KEYS], int(job.scale * job.rank)
    layers = list(adapted_layers(job.spec, model.config.num_hidden_layers))
    given: dict[str, Any] = {"target_modules": names, "layers_to_transform": layers, "task_type": "CAUSAL_LM"}
    return model, LoraConfig(r=job.rank, lora_alpha=alpha, **given)


def train_plain(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    """PEFT keeps its adapter in float32 beside frozen weights of 16 bits, and without autocast multiplies it so."""
    import torch
    from peft import get_peft_model

    meter.settings = "adapter in float32, no autocast" if job.dtype != "float32" else ""
    model = get_peft_model(*load_torch(job, meter, job.dtype)).train()
    decoder, head = model.get_base_model().get_decoder(), model.get_base_model().get_output_embeddings()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=OPTIMIZER.weight_decay, fused=True)
    for group in meter.until_full(cycle(groups) if job.seconds else groups):
        rows = [whole(examples, examples.rows[index]) for index in group]
        padded, lengths = pad_right([tuple(sequence) for sequence, _ in rows])
        columns, starts = np.arange(padded.shape[1])[None], np.array([start for _, start in rows])[:, None]
        real, learned = columns < lengths[:, None], (columns >= starts) & (columns < lengths[:, None])
        ids, real, learned = (torch.from_numpy(array).to(meter.place) for array in (padded.astype(int), real, learned))
        hidden = decoder(input_ids=ids, attention_mask=real.long(), use_cache=False).last_hidden_state
        logits = head(hidden[:, :-1][learned[:, 1:]]).float()
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned[:, 1:]])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, OPTIMIZER.max_grad_norm)
        optimizer.step()
        meter.losses.append(loss.item())
        meter.step()


def train_trl(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Watch(TrainerCallback):
        def on_step_end(self, *given: Any, **_: Any) -> None:
            meter.step()
            given[2].should_training_stop |= meter.full()

    best = job.peer == "trl-best"
    faster, attention, meter.settings = trl_at_its_best(job, meter.place) if best else ({}, "sdpa", "as it comes")
    rows = [whole(examples, examples.rows[index]) for group in groups for index in group]
    columns = [{"input_ids": ids, "completion_mask": [int(i >= start) for i in range(len(ids))]} for ids, start in rows]
    dtype = job.dtype if best else "float32"  # which SFTTrainer itself loads
    model, lora = load_torch(job, meter, dtype, attention)
    settings = {"learning_rate": RATE, "lr_scheduler_type": "constant", "weight_decay": OPTIMIZER.weight_decay}
    settings |= {"max_grad_norm": OPTIMIZER.max_grad_norm, "per_device_train_batch_size": job.batch}
    settings |= {"max_steps": job.steps, "train_sampling_strategy": "sequential", "completion_only_loss": True}
    settings |= {"save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True}
    tokenizer, data = AutoTokenizer.from_pretrained(job.folder), Dataset.from_list(columns)
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(output_dir=output, use_cpu=meter.place == "cpu", **settings, **faster)
        given = {"processing_class": tokenizer, "peft_config": lora, "callbacks": [Watch()]}
        trainer = SFTTrainer(model, config, train_dataset=data, **given)
        trainer.train()
    meter.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trl_at_its_best(job: Job, place: str) -> tuple[dict[str, Any], str, str]:
    """What `trl-best` gives SFTConfig besides, its attention, and both in words. Liger's layers and flash-attention are
    taken where they are installed, on a GPU. Rows without padding share a sequence, and only flash-attention keeps them
    apart; it computes in 16 bits, and TRL wants no `max_length` with it."""
    from transformers.utils import is_flash_attn_2_available

    faster: dict[str, Any] = {"gradient_checkpointing": False, "bf16": job.dtype == "bfloat16"}
    liger = place == "cuda" and importlib.util.find_spec("liger_kernel") is not None
    flash = place == "cuda" and job.dtype != "float32" and is_flash_attn_2_available()
    faster |= {"use_liger_kernel": True} if liger else {}
    faster |= {"padding_free": True, "max_length": None} if flash else {}
    attention = "flash_attention_2" if flash else "sdpa"
    words = [attention, "no padding" if flash else "padded", "Liger" if liger else "no Liger", "no checkpointing"]
    return faster, attention, ", ".join(words)


def train_mlx_lm(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    open_backend("mlx").device()  # imports the framework: on Linux it finds a fast BLAS, for mlx-lm too
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    class Watch(TrainingCallback):
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            meter.losses.append(train_info["train_loss"])
            meter.step()
            if meter.full():
                raise _Enough

    def counted(*given: Any, **named: Any) -> Iterator[Any]:
        for batch, lengths in iterate_batches(*given, **named):
            meter.tokens += batch[:, 1:].size  # the last column is only predicted
            yield batch, lengths

    model, _ = load_model(Path(job.folder))
    model.set_dtype(getattr(mx, job.dtype))
    mx.eval(model.parameters())
    meter.loaded(sum(int(weight.nbytes) for _, weight in tree_flatten(model.parameters())))
    model.freeze()
    lora = {"rank": job.rank, "scale": job.scale, "dropout": 0.0, "keys": set(job.keys or LINEAR_KEYS)}
    linear_to_lora_layers(model, job.layers, lora)
    optimizer = optim.AdamW(learning_rate=RATE, weight_decay=OPTIMIZER.weight_decay, bias_correction=True)
    np.random.seed(0)  # mlx-lm draws the order of its batches from it; the batches are those of `make_groups`
    with tempfile.TemporaryDirectory() as output:
        settings = TrainingArgs(batch_size=job.batch, iters=job.steps, steps_per_report=1, steps_per_save=job.steps + 1)
        settings.adapter_file = str(Path(output) / "adapters.safetensors")
        rows = [whole(examples, row) for row in examples.rows]  # with its offset each row hides its prompt
        with contextlib.suppress(_Enough):
            train(model, optimizer, rows, None, settings, iterate_batches=counted, training_callback=Watch())


class _Enough(Exception):
    """The time of a job is over; mlx-lm's trainer knows no other way to stop."""


PEERS = {"torch": ["ours", "ours-unshared", "plain", "trl", "trl-best"], "mlx": ["ours", "ours-unshared", "mlx-lm"]}
TRAINERS: dict[str, Callable[[Job, TrainingExamples, list[list[int]], Meter], None]] = {
    **dict.fromkeys(("ours", "ours-unshared"), train_ours),
    "plain": train_plain,
    **dict.fromkeys(("trl", "trl-best"), train_trl),
    "mlx-lm": train_mlx_lm,
}
