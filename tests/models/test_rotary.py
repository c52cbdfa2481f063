"""The angles that a config asks for, against transformers' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rir_mlx.errors import ModelError
from rir_mlx.models.families import FULL, SLIDING, rope_for_both
from rir_mlx.models.rotary import angles_of_layers, rotary_limit

_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_LONG = {"short_factor": [1.0, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3], "long_factor": [8.0] * 8}
SETTINGS: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 500_000.0},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "llama3", **_LLAMA3},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "truncate": False, "beta_fast": 8},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.1},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3},
    {"rope_type": "longrope", "original_max_position_embeddings": 64, **_LONG},
    {"rope_type": "longrope", "factor": 2.0, **_LONG},
]


@pytest.mark.parametrize("rope", SETTINGS, ids=lambda rope: "-".join(map(str, rope))[:60])
def test_angles_are_those_that_transformers_computes(rope: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import PhiConfig
    from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

    shape = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256, "num_hidden_layers": 3}
    config = PhiConfig(**shape, rope_parameters={"partial_rotary_factor": 1.0, **rope})
    [angles, *others] = angles_of_layers(config.to_dict())
    assert len(others) == 2
    for position in (1, 9, 60):
        cosines, _ = PhiRotaryEmbedding(config)(torch.zeros(1), torch.tensor([[position]]))
        found = cosines[0, 0].numpy()
        expected = np.sort(np.concatenate([found, np.ones(16 - len(found))]))
        np.testing.assert_allclose(angles.cosines(position), expected, atol=1e-5)


def test_only_angles_that_change_with_the_length_limit_it() -> None:
    shape = {"model_type": "llama", "max_position_embeddings": 256}
    limits = [rotary_limit(shape | {"rope_parameters": {"rope_theta": 1e4} | rope}) for rope in SETTINGS]
    assert [limit and limit.tokens for limit in limits] == [None] * 3 + [256] + [None] * 5 + [64, 256]
    older = {"rope_scaling": {"type": "su", **_LONG}, "original_max_position_embeddings": 128}
    limit = rotary_limit(shape | older)
    assert limit is not None
    assert limit.tokens == 128
    with pytest.raises(ModelError, match="longer than the 128"):
        limit.check(129)


def test_a_number_of_rotated_numbers_counts() -> None:
    """MiniMax's."""
    shape = {"model_type": "minimax", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    [angles] = angles_of_layers(shape | {"rotary_dim": 8, "rope_theta": 1e4})
    assert (len(angles.frequencies), angles.width) == (4, 16)


@pytest.mark.parametrize("yarn", [True, False])
def test_a_hub_folder_of_olmo3_is_exported_as_transformers_reads_it(yarn: bool) -> None:
    """The scaling of all layers stood where transformers looks for one of each kind: it could not read the config."""
    pytest.importorskip("torch")
    from transformers import Olmo3Config

    hub: dict[str, Any] = {"model_type": "olmo3", "num_hidden_layers": 4, "rope_theta": 500000, "sliding_window": 32}
    hub |= {"layer_types": [SLIDING, SLIDING, SLIDING, FULL], "max_position_embeddings": 512}
    settings = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}
    hub |= {"rope_scaling": settings if yarn else None}
    found, expected = (Olmo3Config(**each).rope_parameters for each in (hub | rope_for_both(hub), hub))
    assert found == expected


def test_settings_of_an_unknown_type_are_refused() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    with pytest.raises(ModelError, match="'spiral'"):
        angles_of_layers(config | {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}})
