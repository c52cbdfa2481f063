"""Texts as vectors of an encoder that is not trained. Token ids in, one pooled vector for each text out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from rir_mlx.backends.base import Tokens, pad_right
from rir_mlx.backends.torch.encoder import load_encoder, refuse_missing
from rir_mlx.backends.torch.model import default_device
from rir_mlx.progress import Progress
from rir_mlx.types import Pooling


def pooled_vectors(
    folder: Path, texts: Sequence[Tokens], modes: Sequence[Pooling], batch_size: int, progress: Progress
) -> NDArray[np.float32]:
    """[texts, modes * size] in float32: the last layer's vectors of each text's tokens, pooled in each of these ways.
    Texts of similar length share a batch. Raises ModelError if the folder holds no encoder in safetensors."""
    model, report = load_encoder(folder, AutoModel)
    refuse_missing(folder, [key for key in report["missing_keys"] if "pooler" not in key])
    model.to(default_device()).eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.zeros((len(texts), 0), dtype=np.float32)
    with torch.inference_mode(), progress.task("embedding", len(texts)) as task:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            vectors = _pooled(model, [texts[row] for row in batch], modes)
            if not found.shape[1]:
                found = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
            found[batch] = vectors
            task.advance(len(batch))
    return found


def _pooled(model: torch.nn.Module, rows: Sequence[Tokens], modes: Sequence[Pooling]) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    tokens, sizes = pad_right(rows, getattr(model.config, "pad_token_id", None) or 0)
    lengths = torch.as_tensor(sizes, device=device)
    mask = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
    ids = torch.as_tensor(tokens, dtype=torch.long, device=device)
    vectors = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
    pooled = [_pool(vectors, mask[..., None], lengths, mode) for mode in modes]
    result: NDArray[np.float32] = torch.cat(pooled, dim=-1).cpu().numpy()
    return result


def _pool(vectors: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, mode: Pooling) -> torch.Tensor:
    """[rows, tokens, size] → [rows, size], by the definitions of the sentence-transformers library."""
    match mode:
        case "cls":
            return vectors[:, 0]
        case "lasttoken":
            return vectors[torch.arange(len(vectors), device=vectors.device), lengths - 1]
        case "max":
            return vectors.masked_fill(~mask, -torch.inf).amax(1)
        case "weightedmean":
            weights = mask * torch.arange(1, vectors.shape[1] + 1, device=vectors.device)[None, :, None]
            return (vectors * weights).sum(1) / weights.sum(1)
        case "mean" | "mean_sqrt_len_tokens":
            count = lengths[:, None].to(vectors.dtype)
            return (vectors * mask).sum(1) / (count if mode == "mean" else count.sqrt())
