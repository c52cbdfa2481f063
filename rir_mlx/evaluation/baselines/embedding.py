"""The baseline of a sentence encoder as it is, with logistic regression on its vectors.

A folder of the sentence-transformers library says how a text becomes a vector: `modules.json` lists the steps. They are
read here, and no code of the folder is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rir_mlx.errors import ModelError
from rir_mlx.evaluation.baselines.encoder import EncoderTexts, TextTokenizer, need_torch
from rir_mlx.json_text import parse_json
from rir_mlx.models.config import read_settings
from rir_mlx.models.hub import ModelFiles
from rir_mlx.progress import Progress, Silent
from rir_mlx.statistics.regression import Fitting, multinomial, regression_probabilities
from rir_mlx.types import Pooling

Vectors = NDArray[np.float32]

_BATCH = 32
_LONGEST = 512
"""Tokens of a text that are read at most: some encoders take thousands, at a cost that grows with the square."""
_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
_OLD_POOLING: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Callable[[Vectors], Vectors]] = {
    "torch.nn.modules.activation.Tanh": np.tanh,
    "torch.nn.modules.linear.Identity": lambda vectors: vectors,
}
_HINT = "Name another sentence encoder, or leave it out: --set evaluate.embedding_model=null"


@dataclass(frozen=True)
class SentenceSteps:
    """How a folder makes a vector of a text.

    prompt      stands before each text
    lower       whether texts are put in lower case first
    max_length  in tokens, special tokens included
    pooling     how the vectors of the tokens become one; several are joined
    after       what happens to the pooled vectors [texts, size], in order
    """

    prompt: str = ""
    lower: bool = False
    max_length: int = _LONGEST
    pooling: tuple[Pooling, ...] = ("mean",)
    after: tuple[Callable[[Vectors], Vectors], ...] = ()


def embedding(
    model: ModelFiles, rows: EncoderTexts, texts: Sequence[str], seed: int = 0, progress: Progress | None = None
) -> NDArray[np.float64]:
    """[texts, labels] probabilities of logistic regression on the vectors of a sentence encoder, which is not trained.
    The validation rows choose the regularisation; without them it is cross-validated.

    Raises as `text_vectors`."""
    parts = [[text for text, _ in rows.train], [text for text, _ in rows.validation], list(texts)]
    vectors = text_vectors(model, [text for part in parts for text in part], progress)
    known, held, asked = np.split(vectors, np.cumsum([len(part) for part in parts])[:-1])
    train, validation = (
        (features, [label for _, label in part]) for features, part in ((known, rows.train), (held, rows.validation))
    )
    fitting = Fitting(multinomial, _STRENGTHS, seed)
    return regression_probabilities(train, asked, rows.labels, fitting, validation)


def text_vectors(model: ModelFiles, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
    """[texts, size], as the sentence-transformers library computes them, in PyTorch. A text cannot contain a special
    token.

    Raises UserError if PyTorch is not installed, and ModelError if the folder holds no encoder in safetensors, or a
    step that is not known here."""
    need_torch("embedding")
    from rir_mlx.backends.torch.embedding import pooled_vectors

    steps = sentence_steps(model.folder)
    given = [steps.prompt + text for text in texts]
    tokens = TextTokenizer(model, steps.max_length)([text.lower() for text in given] if steps.lower else given)
    vectors: Vectors = pooled_vectors(model.folder, tokens, steps.pooling, _BATCH, progress or Silent())
    for step in steps.after:
        vectors = step(vectors)
    return vectors


def sentence_steps(folder: Path) -> SentenceSteps:
    """What a folder's `modules.json` and the files that it names say. A folder without it is read as the library does:
    the mean over the tokens. Raises ModelError for a step that is not known here."""
    pooling: tuple[Pooling, ...] = ("mean",)
    after: list[Callable[[Vectors], Vectors]] = []
    for module in _modules(folder):
        kind, place = str(module["type"]).rpartition(".")[2], folder / str(module["path"])
        match kind:
            case "Transformer" if place == folder:
                continue
            case "Pooling":
                pooling = _pooling(place / "config.json")
            case "Normalize":
                after.append(_normalised)
            case "Dense":
                after.append(_dense(place))
            case _:
                raise ModelError(f"{folder / 'modules.json'}: the step {kind} of {place.name} is unknown.", hint=_HINT)
    settings = read_settings(folder / "sentence_bert_config.json")
    written = read_settings(folder / "tokenizer_config.json").get("model_max_length")
    lengths = [length for length in (settings.get("max_seq_length") or written,) if isinstance(length, int)]
    prompts = read_settings(folder / "config_sentence_transformers.json")
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")) or ""
    return SentenceSteps(
        str(prompt), settings.get("do_lower_case") is True, min([_LONGEST, *lengths]), pooling, tuple(after)
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if not all(isinstance(module["path"], str) and ".." not in Path(module["path"]).parts for module in found):
            raise ValueError("a path leads out of the folder")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no list of steps: {error!r}", hint="Fetch the file again.") from error
    return list(found)


def _pooling(path: Path) -> tuple[Pooling, ...]:
    settings = read_settings(path)
    if settings.get("include_prompt") is False:
        raise ModelError(f"{path}: pooling without the prompt is unknown.", hint=_HINT)
    old = [mode for key, mode in _OLD_POOLING.items() if settings.get(key)]
    named = settings.get("pooling_mode", old or "mean")
    modes = (named,) if isinstance(named, str) else tuple(named)
    if unknown := [mode for mode in modes if mode not in get_args(Pooling)]:
        raise ModelError(f"{path}: the pooling {unknown[0]!r} is unknown.", hint=_HINT)
    return modes


def _normalised(vectors: Vectors) -> Vectors:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, 1e-12)[:, None], dtype=np.float32)


def _dense(place: Path) -> Callable[[Vectors], Vectors]:
    """A linear layer with its activation. Raises ModelError if its weights are not in safetensors."""
    from safetensors.numpy import load_file

    settings, weights = read_settings(place / "config.json"), place / "model.safetensors"
    activation = _ACTIVATIONS.get(str(settings.get("activation_function")))
    if activation is None or settings.get("use_residual"):
        raise ModelError(f"{place / 'config.json'}: this kind of layer is unknown.", hint=_HINT)
    if not weights.is_file():
        raise ModelError(f"{place} holds no model.safetensors.", hint="Other formats can run code when they are read.")
    tensors = load_file(weights)

    def layer(vectors: Vectors) -> Vectors:
        made = vectors @ tensors["linear.weight"].T
        return activation(made + tensors["linear.bias"] if "linear.bias" in tensors else made)

    return layer
