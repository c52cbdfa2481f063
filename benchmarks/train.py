"""LoRA training: this toolkit beside TRL, mlx-lm and a plain PEFT loop, on the same rows, token ids and batches.

    python -m benchmarks.train [--backend torch] [--layers 4] [--arm both] [--repeats 3]

Every trainer gets LoRA of rank 16 and scale 2 on all linear layers, AdamW (weight decay 0.01, constant 1e-4) and the
loss of the completion alone. Rows are sorted by length and cut into batches, which spares the others padding that
their own shuffling would cost; mlx-lm batches so itself. Each trainer trains each arm in a process of its own, so that
its peak is its own, the trainers in turn, the whole round repeated. A step is timed from the end of the one before, its
batching included; the first steps are not counted.

  ours           `train_step` with the prompt's shared prefix run once a step
  ours-unshared  `train_step` with the prefix run for every row
  plain          a PEFT loop by hand: right-padded prompts, only the completion's positions projected
  trl            `SFTTrainer` as it comes: float32 weights under bfloat16 autocast, gradient checkpointing
  trl-best       `SFTTrainer` with weights in the benchmark's dtype, no checkpointing, Liger on a GPU if installed
  mlx-lm         `mlx_lm.tuner.trainer.train`. It does not clip gradients, and learns one padding token after each row

On a processor TRL projects every position to the vocabulary, the prompt's too: only its Triton path selects them first.
In `qra` our loss weighs reasoning and label apart. The weight here is the one that makes it a multiple of the mean over
all completion tokens, which is what is shown; forward and backward are the same work for any weight.

Tokens a row are those that enter the model, padding included. MFU counts 4 FLOPs a weight and token for the frozen
linear layers (forward, and the gradient of their input), 6 for LoRA's factors, 4 for the head at each completion token,
6·width·tokens² a layer for causal attention; tokens are all of a row's own, the prefix in every row, without padding
or recomputation. So `ours` may show more than the chip did.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import make_shape, peak_gb
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import (
    OptimizerSpec,
    pad_right,
)
from rir_mlx.data.loading import load_labelled
from rir_mlx.data.rows import Row
from rir_mlx.models.adapter_spec import LINEAR_KEYS, AdapterSpec
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.arms import ClassificationTask, training_examples
from rir_mlx.prompting.batches import LossWeights, step_batches
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.examples import TrainingExample, TrainingExamples
from rir_mlx.recipe.loading import load_recipe

SPEC, OPTIMIZER, RATE = AdapterSpec(rank=16), OptimizerSpec(), 1e-4
PEERS = {"torch": ["ours", "ours-unshared", "plain", "trl", "trl-best"], "mlx": ["ours", "ours-unshared", "mlx-lm"]}
SHAPES = {"torch": (2048, 4, 128256), "mlx": (256, 4, 32768)}
PREFIX_TOKENS, TEXT_TOKENS, REASONING_TOKENS = 120, range(15, 46), range(40, 81)
INSTRUCTION = "Which emotion does the writer of the text express?"
LABELS = {
    "sadness": "grief, loss, disappointment, hurt, loneliness or regret",
    "joy": "happiness, delight, pride, relief, hope or amusement",
    "love": "affection, tenderness, longing, devotion, care or warmth",
    "anger": "irritation, outrage, resentment, jealousy, spite or frustration",
    "fear": "worry, dread, nervousness, panic, doubt or unease",
    "surprise": "astonishment, wonder, shock, disbelief, curiosity or confusion",
}
REASONING = "The words tell of something that happened to the writer, and of how it left them. What counts is how they "
REASONING += "feel at the end, after the turn of the sentence, and that is the feeling that the label names. "


@dataclass(frozen=True)
class Job:
    """One trainer on one arm. The first `warmup` of the `steps` are not counted."""

    trainer: str
    arm: str
    backend: str
    folder: str
    dtype: str
    batch: int
    warmup: int
    steps: int


def make_rows(codec: Codec, arm: str, count: int) -> tuple[TrainingExamples, float]:
    """Rows of the `emotion` kind, and their texts' mean length: two embedded texts joined, the labels in turn."""
    texts = [row.text for row in load_labelled(load_recipe("demo").data, seed=0).train]
    joined = (f"{text}. {texts[i - shift]}" for shift in range(1, len(texts)) for i, text in enumerate(texts))
    fitting = list(islice((text for text in joined if len(codec.given(text)) in TEXT_TOKENS), count))
    long = codec.given(REASONING * 8)
    lengths = (REASONING_TOKENS[17 * i % len(REASONING_TOKENS)] for i in range(count))
    rows = [
        Row(text, label, codec.decode(long[:length]).strip())
        for text, label, length in zip(fitting, cycle(LABELS), lengths, strict=False)
    ]

    def encode(words: int, rows: list[Row]) -> TrainingExamples:
        labels = {name: " ".join(what.split()[:words]).rstrip(",") for name, what in LABELS.items()}
        return training_examples(
            codec, ClassificationTask(labels, INSTRUCTION, 512, 128), rows, "qra" if arm == "qra" else "qa"
        )

    words = min(range(9), key=lambda words: abs(len(encode(words, rows[:1]).prefix) - PREFIX_TOKENS))
    return encode(words, rows), statistics.mean(len(codec.given(text)) for text in fitting)


def make_groups(examples: TrainingExamples, batch: int) -> list[list[int]]:
    """Batches of like length in a drawn order: the ones, and the order, that mlx-lm makes of the same rows."""
    order = sorted(range(len(examples.rows)), key=lambda index: len(examples.rows[index]))
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [groups[index] for index in np.random.RandomState(0).permutation(len(groups))]


def whole(examples: TrainingExamples, row: TrainingExample) -> tuple[list[int], int]:
    """A row with its prefix as one sequence, and where its completion starts."""
    prompt = [*examples.prefix, *row.prompt]
    return [*prompt, *row.reasoning, *row.answer], len(prompt)


def watch_memory(place: str) -> Callable[[], float]:
    """Call it once the weights are loaded; the result tells the peak above them since then, in GB."""
    gc.collect()
    if place == "mlx":
        import mlx.core as mx

        mx.reset_peak_memory()
        held = mx.get_active_memory()
        return lambda: (mx.get_peak_memory() - held) / 2**30
    if place == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - held) / 2**30

    def peak() -> float:
        if not Path("/proc/self/status").is_file():
            return peak_gb()
        return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 2**20

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak back to what is resident now
    resident = peak()
    return lambda: peak() - resident


class Meter:
    """What a trainer reports while it runs: weights loaded, then the end of each step. It fills in the losses."""

    def __init__(self, backend: str) -> None:
        self.losses: list[float] = []
        self.tokens, self.place, self.about = 0, "mlx", ""
        if backend == "torch":
            import torch

            self.place = "cuda" if torch.cuda.is_available() else "cpu"
            self.about = torch.cuda.get_device_name() if self.place == "cuda" else f"{torch.get_num_threads()} threads"
            # Whatever the trainer, its tokens enter the model through this function.
            embedding = torch.nn.functional.embedding

            def counted(ids: Any, *given: Any, **named: Any) -> Any:
                self.tokens += ids.numel()
                return embedding(ids, *given, **named)

            torch.nn.functional.embedding = counted

    def loaded(self, weights: int) -> None:
        """`weights` in bytes. The model has run once before, so that all of them are resident."""
        self.weights, self.tokens = weights / 2**30, 0
        self.peak = watch_memory(self.place)
        self.ends = [time.perf_counter()]

    def step(self) -> None:
        if self.place == "cuda":
            import torch

            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def measured(self, job: Job) -> dict[str, Any]:
        seconds = [after - before for before, after in pairwise(self.ends)][job.warmup :]
        tokens = self.tokens / (job.batch * job.steps)
        measured: dict[str, Any] = {"rows/s": job.batch * len(seconds) / sum(seconds), "seconds": seconds}
        measured |= {"tokens a row": tokens, "peak GB": self.peak(), "weights GB": self.weights}
        return measured | {"losses": self.losses, "about": self.about}


def train_ours(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    backend = open_backend("mlx" if job.backend == "mlx" else "torch")
    model: Any = backend.load(Path(job.folder), dtype=job.dtype)  # type: ignore[arg-type]
    model.logits((1, 2))
    meter.loaded(model.parameters * (4 if job.dtype == "float32" else 2))
    model.add_adapter(SPEC, seed=0)
    model.configure_optimizer(OPTIMIZER)
    tokens = 0
    for group in groups:
        answers = sum(len(examples.rows[index].answer) for index in group)
        reasonings = sum(len(examples.rows[index].reasoning) for index in group)
        shared = job.trainer == "ours"
        batches = step_batches(
            examples, [group], weights=LossWeights(reasoning=reasonings / answers), shared_prefix=shared
        )
        loss = model.train_step(batches, RATE).loss
        meter.losses.append(loss * answers / (answers + reasonings))
        tokens += sum(batch.processed for batch in batches)
        meter.step()
    meter.tokens = meter.tokens or tokens


def load_torch(job: Job, meter: Meter, dtype: str) -> tuple[Any, Any]:
    """transformers' model, and PEFT's configuration of its LoRA."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    named = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(job.folder, dtype=named, attn_implementation="sdpa").to(meter.place)
    with torch.no_grad():
        model(torch.tensor([[1, 2]], device=meter.place))
    meter.loaded(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
    names, alpha = [key.rpartition(".")[2] for key in LINEAR_KEYS], int(SPEC.scale * SPEC.rank)
    return model, LoraConfig(r=SPEC.rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM")


def train_plain(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    import torch
    from peft import get_peft_model

    model = get_peft_model(*load_torch(job, meter, job.dtype)).train()
    decoder, head = model.get_base_model().get_decoder(), model.get_base_model().get_output_embeddings()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=OPTIMIZER.weight_decay, fused=True)
    for group in groups:
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
        def on_step_end(self, *given: Any, **named: Any) -> None:
            meter.step()

    best = job.trainer == "trl-best"
    faster = {"gradient_checkpointing": False, "bf16": job.dtype == "bfloat16"} if best else {}
    if best and meter.place == "cuda" and importlib.util.find_spec("liger_kernel"):
        faster["use_liger_kernel"] = True
    rows = [whole(examples, examples.rows[index]) for group in groups for index in group]
    columns = [{"input_ids": ids, "completion_mask": [int(i >= start) for i in range(len(ids))]} for ids, start in rows]
    model, lora = load_torch(job, meter, job.dtype if best else "float32")  # which SFTTrainer itself loads
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


def train_mlx_lm(job: Job, examples: TrainingExamples, groups: list[list[int]], meter: Meter) -> None:
    open_backend("mlx")  # finds a fast BLAS on Linux, for mlx-lm too
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

    def counted(*given: Any, **named: Any) -> Iterator[Any]:
        for batch, lengths in iterate_batches(*given, **named):
            meter.tokens += batch[:, 1:].size  # the last column is only predicted
            yield batch, lengths

    model, _ = load_model(Path(job.folder))
    model.set_dtype(getattr(mx, job.dtype))
    mx.eval(model.parameters())
    meter.loaded(sum(int(weight.nbytes) for _, weight in tree_flatten(model.parameters())))
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": SPEC.rank, "scale": SPEC.scale, "dropout": 0.0, "keys": set(LINEAR_KEYS)})
    optimizer = optim.AdamW(learning_rate=RATE, weight_decay=OPTIMIZER.weight_decay, bias_correction=True)
    np.random.seed(0)  # mlx-lm draws the order of its batches from it; the batches are those of `make_groups`
    with tempfile.TemporaryDirectory() as output:
        settings = TrainingArgs(batch_size=job.batch, iters=job.steps, steps_per_report=1, steps_per_save=job.steps + 1)
        settings.adapter_file = str(Path(output) / "adapters.safetensors")
        rows = [whole(examples, row) for row in examples.rows]  # with its offset each row hides its prompt
        train(model, optimizer, rows, None, settings, iterate_batches=counted, training_callback=Watch())


TRAINERS: dict[str, Callable[[Job, TrainingExamples, list[list[int]], Meter], None]] = {
    **dict.fromkeys(("ours", "ours-unshared"), train_ours),
    "plain": train_plain,
    **dict.fromkeys(("trl", "trl-best"), train_trl),
    "mlx-lm": train_mlx_lm,
}


def work(job: Job) -> dict[str, Any]:
    examples, text = make_rows(Codec(Path(job.folder), "26 Jul 2024"), job.arm, job.batch * job.steps)
    groups, meter = make_groups(examples, job.batch), Meter(job.backend)
    TRAINERS[job.trainer](job, examples, groups, meter)
    config = json.loads((Path(job.folder) / "config.json").read_text(encoding="utf-8"))
    completion = statistics.mean(len(row.reasoning) + len(row.answer) for row in examples.rows)
    lengths = (
        f"prefix {len(examples.prefix)} tokens; on average text {text:.1f}, completion {completion:.1f}, whole row "
    )
    lengths += f"{examples.tokens() / len(examples.rows):.1f}"
    counted = [examples.rows[index] for group in groups[job.warmup :] for index in group]
    work = statistics.mean(flops(config, len(examples.prefix), row) for row in counted)
    return meter.measured(job) | {"lengths": lengths, "FLOPs a row": work}


def flops(config: dict[str, Any], prefix: int, row: TrainingExample) -> float:
    """Of one row's training, by the formula in this module's docstring."""
    hidden, middle, heads = (config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = config.get("head_dim") or hidden // heads
    width, keys = head * heads, head * config["num_key_value_heads"]
    shapes = [(hidden, width), (hidden, keys), (hidden, keys), (width, hidden), *[(hidden, middle)] * 3]
    frozen, factors = sum(a * b for a, b in shapes), SPEC.rank * sum(a + b for a, b in shapes)
    tokens, completion = prefix + len(row), len(row.reasoning) + len(row.answer)
    layer = (4 * frozen + 6 * factors) * tokens + 6 * width * tokens**2
    return float(config["num_hidden_layers"] * layer + 4 * hidden * config["vocab_size"] * completion)


def run_job(job: Job, device: str) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, "-m", "benchmarks.train", "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{job.arm} {job.trainer}: {measured['rows/s']:.2f} rows/s", file=sys.stderr)
    return measured


def report_arm(arm: str, results: dict[str, list[dict[str, Any]]], peak_tflops: float | None) -> Iterator[str]:
    """Table rows of one arm. `results` holds what each trainer measured, once a round."""
    ours = [result["rows/s"] for result in results.get("ours", [])]
    for trainer, rounds in results.items():
        rates = [result["rows/s"] for result in rounds]
        rate, first = statistics.median(rates), rounds[0]
        ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=False)]
        cells = [arm, trainer, f"{rate:.3g} ({min(rates):.3g}–{max(rates):.3g})"]
        cells += [f"{statistics.median(ratios):.2f} ×" if ratios else "–", f"{first['tokens a row']:.1f}"]
        cells += [
            f"{statistics.median(result['peak GB'] for result in rounds):.2f} GB",
            f"{first['weights GB']:.2f} GB",
        ]
        cells.append(f"{first['losses'][0]:.3f} → {first['losses'][-1]:.3f}")
        cells += [f"{rate * first['FLOPs a row'] / (peak_tflops * 1e12):.1%}"] if peak_tflops else []
        yield f"| {' | '.join(cells)} |"


def report_losses(arm: str, results: dict[str, list[dict[str, Any]]], dtype: str) -> str:
    """What the rows were, and whether the trainers start from one loss. mlx-lm's is a mean over other tokens too."""
    first = {trainer: rounds[0]["losses"][0] for trainer, rounds in results.items()}
    compared = [loss for trainer, loss in first.items() if trainer != "mlx-lm"] or list(first.values())
    spread = max(compared) / min(compared) - 1
    allowed = 1e-4 if dtype == "float32" and "trl" not in results else 5e-3  # bfloat16 rounds by up to 0.4 %
    verdict = "agree" if spread <= allowed else "DISAGREE"
    shown = ", ".join(f"{trainer} {loss:.4f}" for trainer, loss in first.items())
    lengths = next(iter(results.values()))[0]["lengths"]
    return f"{arm}: {lengths} tokens. First losses {verdict} (spread {spread:.0e}, allowed {allowed:.0e}): {shown}."


def report_machine(options: argparse.Namespace, about: str) -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    parts = [f"{cpu}, {os.cpu_count()} cores", *([about] if about else [])]
    for package in ["torch", "transformers", "peft", "trl"] if options.backend == "torch" else ["mlx", "mlx-lm"]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    random = f"random weights {options.hidden} wide, {options.layers} layers, vocabulary {options.vocab}"
    parts += [options.dtype, options.model or random, f"batches of {options.batch}"]
    parts += [f"{options.steps} steps after {options.warmup} uncounted", f"median (range) of {options.repeats} rounds"]
    return f"Measured on: {'; '.join(parts)}."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=sorted(PEERS), default="torch")
    parser.add_argument("--model", help="a folder or name, instead of random weights of the following shape")
    for name, what in (("hidden", "width, a multiple of 64"), ("layers", "layers"), ("vocab", "4096 or more")):
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on torch, float32 on mlx")
    parser.add_argument("--arm", choices=["qa", "qra", "both"], default="both")
    counts = {"batch": (16, "rows a step"), "steps": (6, "steps that count"), "warmup": (2, "steps before them")}
    for name, (default, what) in (counts | {"repeats": (3, "rounds")}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="cpu hides a CUDA device")
    parser.add_argument("--peers", help=f"some of {','.join(TRAINERS)}; default: all of the backend")
    parser.add_argument("--peak-tflops", type=float, help="the chip's dense bfloat16 peak, to show MFU")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, default in zip(("hidden", "layers", "vocab"), SHAPES[options.backend], strict=True):
        setattr(options, name, getattr(options, name) or default)
    options.dtype = options.dtype or ("bfloat16" if options.backend == "torch" else "float32")
    options.peers = options.peers.split(",") if options.peers else PEERS[options.backend]
    if odd := set(options.peers) - set(PEERS[options.backend]):
        parser.error(f"--peers: {min(odd)} is none of {', '.join(PEERS[options.backend])}")
    if options.warmup < 1 or options.steps < 1:
        parser.error("--warmup and --steps: both are 1 or more; the first step includes the trainer's own setup")
    return options


def main() -> None:
    options = parse()
    if options.job:
        with contextlib.redirect_stdout(sys.stderr):
            measured = work(Job(**json.loads(options.job)))
        print(json.dumps(measured))
        return
    arms = ["qa", "qra"] if options.arm == "both" else [options.arm]
    results: dict[str, dict[str, list[dict[str, Any]]]] = {arm: defaultdict(list) for arm in arms}
    with tempfile.TemporaryDirectory() as temporary:
        folder = resolve_model(options.model).folder if options.model else Path(temporary) / "model"
        if not options.model:
            make_shape(folder, options.hidden, options.layers, options.vocab)
        steps = options.warmup + options.steps
        rest = (options.backend, str(folder), options.dtype, options.batch, options.warmup, steps)
        for _, arm, trainer in product(range(options.repeats), arms, options.peers):
            results[arm][trainer].append(run_job(Job(trainer, arm, *rest), options.device))
    heads = ["arm", "trainer", "rows/s", "`ours` is faster by", "tokens a row", "peak above weights", "weights"]
    heads += ["loss, first → last", *(["MFU"] if options.peak_tflops else [])]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for arm in arms:
        print("\n".join(report_arm(arm, results[arm], options.peak_tflops)))
    print("\n" + report_machine(options, results[arms[0]][options.peers[0]][0]["about"]))
    for arm in arms:
        print(report_losses(arm, results[arm], options.dtype))
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "results": results}, default=str, indent=1))


if __name__ == "__main__":
    main()
