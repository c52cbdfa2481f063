"""The seam between the toolkit and the frameworks.

Token ids, floats, NumPy arrays and paths cross it; framework arrays never do. A backend knows nothing of text,
recipes or stages: token ids in, token ids and numbers out.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.facts import Facts
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors
from rir_mlx.types import Dtype, FinishReason, OptimizerName

Tokens = tuple[int, ...]
Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


FEWER_ROWS = "Lower augment.batch_size or evaluate.batch_size; the same command continues."
"""The hint for rows that do not fit into memory together."""


@dataclass(frozen=True)
class OptimizerSpec:
    """The update, and clipping of the global gradient norm.

    The optimizers whose update is the same in both frameworks. `weight_decay` is that of `adamw` (arXiv:1711.05101,
    with bias correction), the others have none; `sgd` has momentum `beta1`; `adafactor` (arXiv:1804.04235) scales the
    given rate by the weights' root mean square.
    """

    name: OptimizerName = "adamw"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Execution:
    """How a step is computed. The result stays the same, except for which dropout is drawn. `grad_checkpoint`
    recomputes a layer's activations in the backward pass instead of keeping them. `compile` fuses operations; None
    leaves the choice to the backend."""

    grad_checkpoint: bool = False
    compile: bool | None = None


PLAIN = Execution()


@dataclass(frozen=True)
class TrainingState:
    """Everything needed to resume training exactly: tensors by name, in the backend's own names and layout. They may
    share memory with the model, so write them before the next step."""

    tensors: Tensors


@dataclass(frozen=True)
class Batch:
    """Rows that share a prefix.

    prefix   [P] token ids that every row starts with; may be empty
    tokens   [rows, T] the rows' own token ids, right-padded with any id
    lengths  [rows] how many of them are not padding
    weights  [rows, T] weight of the cross-entropy of predicting `tokens[r, t]`; 0 where nothing is learned.
             The loss of a batch is the weighted *sum*: the weights are normalised when the batch is built.
             `weights[:, 0]` is 0: each row starts with at least one token of its prompt.
    """

    prefix: Tokens
    tokens: Int32Array
    lengths: Int32Array
    weights: Float32Array

    @property
    def processed(self) -> int:
        """Tokens that a shared-prefix step runs through the model, padding included."""
        return len(self.prefix) + int(self.tokens.size)


@dataclass(frozen=True)
class StepResult:
    """Weighted loss before the update, and the global gradient norm before clipping, both over all ranks. If one of
    them is not finite, no weight was changed."""

    loss: float
    grad_norm: float


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in this order: logits of tokens already generated in the row are divided (above 0) or
    multiplied (below 0) by `repetition_penalty` (arXiv:1909.05858, without the prompt); all logits are divided by
    `temperature`, where 0 means greedy; the likeliest tokens that make up the mass `top_p` are kept (arXiv:1904.09751),
    and of these the tokens at least `min_p` times as likely as the likeliest (arXiv:2407.01082). `stop` are token
    sequences that end a row and are not part of its result."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[Tokens, ...] = ()
    batch_size: int = 32
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Request:
    """One row to continue. Its `max_tokens` can only lower the sampling's. A `whole` row does not follow the shared
    prefix: its tokens are all that there is.

    The random numbers of a row depend only on its `seed` and the token's position (`rir_mlx.backends.noise`), never on
    other rows, and are the same on every backend. The logits do depend on the batch, by rounding. So the same request
    gives the same text in another batch unless two tokens tie to within that rounding, greedy or drawn: in float32 that
    is rare (none of 48,000 draws with logits off by 1e-5); in 16 bits it is common, and there is no such guarantee.
    """

    key: int
    tokens: Tokens
    seed: int = 0
    max_tokens: int | None = None
    whole: bool = False

    def limit(self, sampling: Sampling) -> int:
        return sampling.max_tokens if self.max_tokens is None else min(self.max_tokens, sampling.max_tokens)


@dataclass(frozen=True)
class Completion:
    """The tokens generated for `key`, without the stop sequence."""

    key: int
    tokens: Tokens
    finish_reason: FinishReason


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder is fine-tuned as a baseline; `max_length` is in tokens, including special tokens."""

    learning_rate: float = 5e-5
    epochs: int = 3
    batch_size: int = 32
    max_length: int = 256
    seed: int = 0


@dataclass(frozen=True)
class EncoderRows:
    """Token ids with the index of their label, and the number of labels."""

    train: Sequence[tuple[Tokens, int]]
    validation: Sequence[tuple[Tokens, int]]
    labels: int


@dataclass(frozen=True)
class Device:
    """Where the model runs; `memory` is in bytes. `shares_memory`: it is the machine's memory, in which libraries and
    files lie too."""

    name: str
    memory: int
    shares_memory: bool = True


OnToken = Callable[[int, int], None]
"""Called with (key, token) as each token is drawn."""


class ProcessGroup(Protocol):
    """The processes that train one model together, each on rows of its own."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """The sum of every rank's values; waits for all ranks. Raises Failure if a process has died."""
        ...


class SingleProcess:
    """One process."""

    rank, size = 0, 1

    def all_sum(self, values: Sequence[float]) -> list[float]:
        return list(values)


class Model(Protocol):
    """A loaded causal language model."""

    @property
    def parameters(self) -> int:
        """Number of weights of the base model."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes that they take."""
        ...

    @property
    def longest(self) -> int | None:
        """The longest sequence that this backend computes correctly; None without such a limit. Longer ones raise
        ModelError."""
        ...

    @property
    def head_rows(self) -> int:
        """Positions that training projects to the vocabulary at a time."""
        ...

    def add_adapter(self, spec: AdapterSpec, seed: int) -> None:
        """Attach a fresh adapter, or make all weights trainable for `full`. The seed determines its initial weights,
        which are the same on every backend."""
        ...

    def configure_optimizer(self, spec: OptimizerSpec, execution: Execution = PLAIN) -> None:
        """Prepare to train what `add_adapter` attached."""
        ...

    def train_step(self, batches: Sequence[Batch], learning_rate: float, *, seed: int = 0) -> StepResult:
        """One optimizer step on the sum of the batches' losses, each batch run separately. The seed determines dropout.

        With several ranks the gradient is the sum over all of them; a rank may have no batch.
        Raises OutOfMemory if the batches do not fit; then no weight was changed."""
        ...

    def training_state(self) -> TrainingState:
        """The trained weights and the optimizer's state. Together with the steps' inputs they determine all later
        steps."""
        ...

    def load_training_state(self, state: TrainingState) -> None:
        """Continue from the `training_state` of an equally configured model. Raises ModelError if it does not fit."""
        ...

    def loss(self, batch: Batch) -> float:
        """The weighted loss of a batch, without dropout. Raises OutOfMemory if it does not fit."""
        ...

    def generate(
        self,
        requests: Iterable[Request | None],
        sampling: Sampling,
        *,
        prefix: Tokens = (),
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        """Continue each of the requests after `prefix`, which they share, with at most `sampling.batch_size` rows at a
        time. Requests are taken in order as rows finish, and completions are yielded as rows finish. Adjacent rows of
        similar length need the least padding.

        None among the requests says that none waits now: the rows in progress go on by a token before the next one is
        asked for. So a server can let a request join rows that are being generated."""
        ...

    def score(
        self,
        prompts: Sequence[Tokens],
        options: Sequence[Tokens],
        *,
        prefix: Tokens = (),
        batch_size: int = 32,
        mass: bool = True,
    ) -> NDArray[np.float64]:
        """[prompts, options]: Σ log p(option tokens | prefix, prompt). Prompts and options are not empty. Without
        `mass`, the scores of a prompt may share a constant, which spares a projection to the vocabulary."""
        ...

    def keep_prefixes(self, count: int) -> None:
        """Let `generate` and `score` keep the keys and values of the `count` prefixes that were used last. Until it is
        called with 0, the weights must stay as they are."""
        ...

    def logits(self, tokens: Tokens) -> Float32Array:
        """[tokens, vocabulary] next-token logits of one sequence, in float32."""
        ...

    def last_logits(self, rows: Iterable[Tokens], last: int, *, prefix: Tokens = ()) -> Iterator[Float32Array]:
        """For each row, the next-token logits after `prefix` at its `last` positions (or all, if it has fewer):
        [positions, vocabulary], in float32. The prefix runs once, then one row at a time."""
        ...

    def layer_outputs(self, tokens: Tokens) -> list[Float32Array]:
        """[tokens, width] of what enters the first layer and of what each layer gives, in float32: where two models
        first differ."""
        ...

    def fuse(self) -> None:
        """Merge the adapter into the weights: added in float32, rounded once. The model can no longer be trained after
        that. Quantised weights keep their adapter separate, which loses nothing."""
        ...

    def trained_tensors(self) -> dict[str, np.ndarray]:
        """The adapter's tensors (for `full`, all weights) in mlx-lm's names and layout, float32."""
        ...


class Backend(Protocol):
    """A framework. It loads local folders; hub names are resolved before."""

    name: str

    @property
    def processes(self) -> ProcessGroup: ...

    def device(self) -> Device: ...

    def facts(self) -> Facts: ...

    def load(
        self,
        folder: Path,
        *,
        dtype: Dtype = "auto",
        adapter: tuple[AdapterSpec, Tensors] | None = None,
    ) -> Model:
        """Load a folder in Hugging Face format, and an adapter over it.

        Raises ModelError if the folder cannot be read or the adapter does not fit."""
        ...


def initial_lora_a(name: str, shape: tuple[int, int], seed: int) -> Float32Array:
    """Initial `lora_a` (in, rank) of the tensor called `name`: uniform in ±1/√in, as mlx-lm draws it.

    Drawn with NumPy from the seed and the name, so that every backend starts from the same weights.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    bound = 1.0 / math.sqrt(shape[0])
    return rng.uniform(-bound, bound, size=shape).astype(np.float32)


def pad_right(rows: Sequence[Tokens], pad: int = 0) -> tuple[Int32Array, Int32Array]:
    """Rows of different lengths as one array [rows, longest], and their lengths [rows]."""
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.full((len(rows), int(lengths.max(initial=0))), pad, dtype=np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return tokens, lengths


def learned_positions(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], Float32Array]:
    """The learned tokens of a batch: indices of the predicting positions among [rows * T], the token each predicts, its
    weight.

    The position before a token predicts it, so hidden states can be selected before the vocabulary is projected.
    """
    rows, columns = np.nonzero(batch.weights)
    width = batch.tokens.shape[1]
    return (
        (rows * width + columns - 1).astype(np.int64),
        batch.tokens[rows, columns].astype(np.int64),
        batch.weights[rows, columns],
    )


def take(source: Iterator[Request | None], most: int) -> tuple[list[Request], bool]:
    """The next requests, up to a None and at most `most` of them; and whether the source has ended."""
    taken: list[Request] = []
    while len(taken) < most:
        try:
            request = next(source)
        except StopIteration:
            return taken, True
        if request is None:
            break
        taken.append(request)
    return taken, False


def stop_length(generated: Sequence[int], stops: Sequence[Tokens]) -> int:
    """The length of the stop sequence at the end of the tokens; 0 if there is none."""
    return max((len(stop) for stop in stops if stop and tuple(generated[-len(stop) :]) == tuple(stop)), default=0)


def unstopped(generated: Sequence[int], stops: Sequence[Tokens]) -> tuple[Tokens, FinishReason]:
    """A finished row without its stop sequence, and why it finished."""
    cut = stop_length(generated, stops)
    return tuple(generated[: len(generated) - cut]), "stop" if cut else "length"
