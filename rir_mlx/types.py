"""Every closed set of names, once. The recipe's keys and the command line's choices are made from these."""

from __future__ import annotations

from typing import Literal

Arm = Literal["qa", "qra", "qar", "multitask", "qra-scrambled", "qra-words"]
"""How a classifier is trained: `qa` writes the label, `qra` a reasoning and then the label (arXiv:2507.00214), `qar`
the label and then a reasoning (arXiv:2406.14511), `multitask` the label or a reasoning, by two prompts
(arXiv:2305.02301). Controls: `qra` on reasonings of other rows (`qra-scrambled`), and on its own with their words
shuffled (`qra-words`)."""

CONTROLS: tuple[Arm, ...] = ("qra-scrambled", "qra-words")

AnswerFormat = Literal["label", "reasoning, label", "label, reasoning", "reasoning"]
"""What a prompt asks for, in this order."""

Filter = Literal["repeating", "copying", "restating", "another label", "ungrounded"]
"""A rule that a reasoning must pass. `augmentation/filters.py` defines each."""

DEFAULT_FILTERS: tuple[Filter, ...] = ("repeating", "copying", "restating", "another label")

Baseline = Literal["majority", "tf-idf", "untuned"]

Reporter = Literal["tensorboard", "wandb", "trackio"]

OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "adafactor"]

FineTuneType = Literal["lora", "dora", "full"]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

BackendName = Literal["auto", "mlx", "torch", "fake"]

FinishReason = Literal["stop", "length"]

Way = Literal["direct", "reasoned", "sampled"]

Part = Literal["train", "validation", "test"]
