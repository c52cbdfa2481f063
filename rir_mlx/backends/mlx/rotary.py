"""Whether mlx-lm turns queries and keys by the angles that a config asks for, and up to which length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from rir_mlx.errors import ModelError
from rir_mlx.models.families import mlx_length_limit
from rir_mlx.models.rotary import LengthLimit, angles_of_layers, rotary_limit

_POSITIONS = (1, 17, 300)
_TOLERANCE = 2e-3
"""Of a cosine, in float32 on any device. Other settings move some of them by 0.1 and more."""


def length_limit(config: Mapping[str, Any]) -> LengthLimit | None:
    """The lower one of the limits by windows and by angles."""
    limits, window = [rotary_limit(config)], mlx_length_limit(config)
    if window is not None:
        why = f"this model's attention window of {window:,}, which mlx-lm ignores"
        limits.append(LengthLimit(window, why, f"Set max_seq_length to at most {window}, or use --backend torch."))
    return min(filter(None, limits), key=lambda limit: limit.tokens, default=None)


def check_angles(model: Any, config: Mapping[str, Any]) -> None:
    """Raises ModelError if a layer turns by other angles. One that does not turn at all is left alone: some have none,
    and mlx-lm's code says which."""
    for layer, angles in zip(model.layers, angles_of_layers(config), strict=False):
        turns = [part for name, part in layer.named_modules() if name.rpartition(".")[2] in ("rope", "rotary_emb")]
        each = mx.eye(angles.width)[None, :, None]  # [1, heads, 1 token, width]: each head has one number alone
        for turn in turns:
            for position in _POSITIONS:
                found = np.sort(np.diag(np.array(turn(each, offset=position))[0, :, 0].astype(np.float32)))
                off = np.abs(found - angles.cosines(position)).max()
                if off > _TOLERANCE and not np.array_equal(found, np.ones(angles.width)):
                    raise ModelError(
                        f"mlx-lm cannot run this {config['model_type']} model: it does not apply the rotary settings "
                        "of its config.json.",
                        hint="Use --backend torch.",
                    )
