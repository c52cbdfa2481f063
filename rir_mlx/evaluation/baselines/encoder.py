"""The baseline of a small encoder with a classification head, fine-tuned in PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.base import EncoderOptions, EncoderRows, Tokens
from rir_mlx.errors import ModelError, UserError, install_extra
from rir_mlx.models.hub import ModelFiles
from rir_mlx.progress import Progress, Silent
from rir_mlx.statistics.tfidf import LabelledTexts


@dataclass(frozen=True)
class EncoderTexts:
    """The labels in order, the texts to train on, and the texts that decide which epoch is kept."""

    labels: Sequence[str]
    train: LabelledTexts
    validation: LabelledTexts = ()


def encoder(
    model: ModelFiles,
    rows: EncoderTexts,
    texts: Sequence[str],
    options: EncoderOptions | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """[texts, labels] probabilities of an encoder (BERT and its like) fine-tuned on these texts, in PyTorch.

    Raises UserError if PyTorch is not installed, and ModelError if the model has no tokenizer or cannot classify."""
    need_torch("encoder")
    from rir_mlx.backends.torch.encoder import encoder_probabilities

    options = options or EncoderOptions()
    tokenize = TextTokenizer(model, options.max_length)
    index = {label: number for number, label in enumerate(rows.labels)}
    train, validation = (
        list(zip(tokenize([text for text, _ in part]), [index[label] for _, label in part], strict=True))
        for part in (rows.train, rows.validation)
    )
    known = EncoderRows(train, validation, len(index))
    return encoder_probabilities(model.folder, known, tokenize(texts), options, progress or Silent())


def need_torch(baseline: str) -> None:
    """Raise UserError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None:
        key = "encoder" if baseline == "encoder" else "embedding_model"
        raise UserError(
            f"The {baseline} baseline needs PyTorch, which is not installed.",
            hint=f"{install_extra('torch')} installs it; `--set evaluate.{key}=null` leaves the baseline out.",
        )


class TextTokenizer:
    """Texts to token ids with the encoder's special tokens around them. A text cannot contain a special token, and an
    empty text becomes the single token 0."""

    def __init__(self, model: ModelFiles, max_length: int) -> None:
        from tokenizers import Tokenizer

        path = model.folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{model.folder} has no tokenizer.json.", hint="Name a model with a fast tokenizer.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} cannot be read: {error}", hint="Download or copy the model again.") from error
        # RoBERTa counts its positions from two
        places = int(model.config.get("max_position_embeddings", max_length + 2)) - 2
        self._tokenizer.enable_truncation(min(max_length, places) if places > 0 else max_length)
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        return [tuple(encoded.ids) or (0,) for encoded in self._tokenizer.encode_batch(list(texts))]
