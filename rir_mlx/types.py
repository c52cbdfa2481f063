"""Every closed set of names, once, and what else the library and the command line must agree on. The recipe's keys and
the command line's choices are made from these."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

RUNS = Path("runs")
"""The default folder of all runs."""

SHIPPED = ("demo", "emotion", "emotion-small", "emotion-tiny", "paper", "custom")
"""Recipes that come with the package and can be named without a path."""
DEFAULT_RECIPE = "emotion"
OPEN_MIRROR = "mlx-community/Llama-3.2-1B-Instruct-bf16"
"""A copy of Llama 3.2 1B that asks for no consent: the default model."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".xlsx", ".parquet")
"""How the names of files end that hold rows."""

Part = Literal["train", "validation", "test"]
"""A part of the labelled rows."""
PARTS: tuple[Part, ...] = get_args(Part)

Severity = Literal["error", "warning", "note"]
"""How bad a finding about the data is. `error`: training would refuse the data. `warning`: training would run, but its
metrics would mislead or a label would not be learned. `note`: worth knowing."""

OnBadRows = Literal["stop", "skip"]
"""What happens to rows that cannot be used: an error that lists them, or they are left out and counted."""

Arm = Literal["qa", "qra", "qar", "qarqa", "multitask", "curriculum", "qra-scrambled", "qra-words"]
"""How a classifier is trained: `qa` writes the label, `qra` a reasoning and then the label (arXiv:2507.00214), `qar`
the label and then a reasoning (arXiv:2406.14511), `qarqa` a first label, a reasoning and the label again (guess, think,
answer: arXiv:2509.12108), `multitask` the label or a reasoning, by two prompts (arXiv:2305.02301), `curriculum` first
what `qra` writes, then less and less of the reasoning, in the end the label alone (arXiv:2405.14838). Controls: `qra`
on reasonings of other rows (`qra-scrambled`), and on its own with their words shuffled (`qra-words`)."""

Finding = Literal["helped", "hurt", "unclear", "failed"]
"""What a comparison shows about reasoning; `failed` if it shows nothing, because the task was not learned or the arms
cannot be compared."""

CONTROLS: tuple[Arm, ...] = ("qra-scrambled", "qra-words")
"""The arms that measure what the content of a reasoning is worth."""

AnswerFormat = Literal["label", "reasoning, label", "label, reasoning", "label, reasoning, label", "reasoning"]
"""What a prompt asks for, in this order."""

Way = Literal["direct", "reasoned", "sampled"]
"""How label probabilities are scored: from the prompt alone, after one reasoning, or averaged over several."""

AnswerMode = Literal["direct", "reasoned", "sampled", "auto"]
"""How a classifier comes to an answer: always by one way of scoring, or by `auto`, which reasons in doubt."""

ReasonMode = Literal["never", "always", "auto"]
"""Whether a classifier writes a reasoning before it answers. `auto`: only if the label is uncertain without one."""

ReasoningPrompt = Literal["steps", "words", "contrast", "sentence"]
"""What R-Gen is asked for: an explanation step by step, the words that show the answer, why no other choice fits, or
one sentence. `prompting/prompts.py` spells each out."""

Choice = Literal["first", "likeliest", "useful"]
"""Which of several reasonings of a row is kept: the first that passes the filters, the one that makes the label
likeliest to R-Gen, or the one that does so to a classifier that has not seen the row's label."""

EngineName = Literal["local", "openai", "ray"]
"""What writes the reasonings in `augment`."""

Filter = Literal["repeating", "copying", "restating", "another label", "stock", "ungrounded", "uninformative"]
"""A rule that a reasoning must pass. `augmentation/filters.py` defines each."""

FILTERS_ACROSS_ROWS: tuple[Filter, ...] = ("stock", "ungrounded", "uninformative")
"""The filters that judge once all rows have a reasoning. What they reject is not generated again."""

DEFAULT_FILTERS: tuple[Filter, ...] = ("repeating", "copying", "restating", "another label", "stock", "ungrounded")

Baseline = Literal["majority", "tf-idf", "untuned", "embedding"]
"""What the arms are compared with."""

DEFAULT_BASELINES: tuple[Baseline, ...] = ("majority", "tf-idf", "untuned")

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""How the vectors of a text's tokens become one: the names of the sentence-transformers library."""

BackendChoice = Literal["auto", "mlx", "torch"]
"""The framework that runs the model."""

BackendName = Literal[BackendChoice, "fake"]
"""Every backend. `fake` runs no model; it is for tests."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of the frozen weights."""

FineTuneType = Literal["lora", "dora", "full"]
"""Which weights are trained: a low-rank adapter, a weight-decomposed one, or all of them."""

OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "adafactor"]
"""The optimizers that give the same result in MLX and in PyTorch."""

LearningRateSchedule = Literal["cosine", "linear", "constant"]
"""How the learning rate falls after the warm-up."""

ClassWeight = Literal["balanced"]
"""How the rows of a label are weighted in the loss."""

Reporter = Literal["tensorboard", "wandb", "trackio"]
"""Where training metrics go beside `metrics.jsonl`."""

ServerParameter = Literal["temperature", "top_p", "seed", "max_tokens", "min_p", "repetition_penalty", "stream"]
"""A parameter of a request to a server that can be left out."""

FinishReason = Literal["stop", "length"]
"""Why a generated text ends: its end token, or the limit on tokens."""

ExportFormat = Literal["hf", "mlx", "gguf", "adapter"]
"""The formats of `rir-mlx export`."""

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
"""Number format of the weights in a GGUF file."""

QuantizationBits = Literal[4, 8]
"""Bits of a weight in a quantized MLX folder."""
QUANTIZATION_GROUP = 64
"""Weights of a row that share a scale there."""

Ecosystem = Literal["peft", "mlx"]
"""The library whose adapter format a folder uses."""

ReviewAction = Literal["accept", "edit", "skip"]
"""What a reviewer does with a row: its label and reasoning are right, they are changed, or neither is decided."""

ReviewFilter = Literal["all", "disagree", "unsure", "rejected", "duplicates", "conflicts"]
"""Which rows are looked through. `review/rows.py` defines each."""

ReviewState = Literal["all", "open", "done"]
"""Whether rows that were decided about are shown: with the others, not at all, or alone."""

BenchTask = Literal["qa", "qra", "augment", "label", "reasoning"]
"""What `rir-mlx bench` measures: training of two arms, writing reasonings, classifying without and with them."""

Rival = Literal["mlx-lm", "peft", "trl"]
"""A program that `rir-mlx bench` can measure beside rir-mlx."""
