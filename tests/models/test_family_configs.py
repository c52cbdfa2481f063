"""What a config says of windows, rotary settings and logits."""

from __future__ import annotations

import pytest

from rir_mlx.errors import ModelError
from rir_mlx.models.families import (
    FULL,
    SLIDING,
    Attention,
    LogitTransform,
    mlx_config,
    mlx_length_limit,
    rope_for_both,
    ties_head,
)

GEMMA3 = {
    "model_type": "gemma3_text",
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
    "sliding_window": 512,
    "rope_parameters": {
        FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    },
}


def test_rotary_settings_by_layer_keep_both_bases() -> None:
    """Flattened to one base, Gemma 3's angles were off a hundredfold, and its export passed."""
    rope = rope_for_both(GEMMA3)
    assert (rope["rope_theta"], rope["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)
    assert rope["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert rope["rope_parameters"] == GEMMA3["rope_parameters"]
    hub = {"model_type": "gemma3_text", "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
    assert rope_for_both(hub)["rope_parameters"][SLIDING]["rope_theta"] == 10_000.0


def test_scaling_under_its_older_name_stays_scaling() -> None:
    """An export called it default for transformers 5, and so other angles were computed."""
    rope = rope_for_both({"model_type": "llama", "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}})
    assert rope["rope_parameters"] == {"rope_type": "linear", "type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert rope["rope_scaling"] == {"type": "linear", "factor": 2.0}


def test_mlx_gets_the_pattern_of_the_layer_types() -> None:
    assert mlx_config(GEMMA3)["sliding_window_pattern"] == 3
    with pytest.raises(ModelError, match="fixed pattern"):
        mlx_config(GEMMA3 | {"layer_types": [FULL, SLIDING, SLIDING, FULL]})
    hub = {"model_type": "gemma3_text", "sliding_window_pattern": 6, "num_hidden_layers": 18}
    assert mlx_config(hub)["sliding_window_pattern"] == 6


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "gemma3_text", "num_hidden_layers": 4}, "whose 4 layers all have sliding-window"),
        ({"model_type": "gemma3_text", "layer_types": [SLIDING] * 5}, "whose 5 layers all have sliding-window"),
        ({"model_type": "olmo3", "num_hidden_layers": 3}, "whose 3 layers all have sliding-window"),
        ({"model_type": "olmo3", "layer_types": [FULL, FULL]}, "whose 2 layers all have full"),
    ],
)
def test_layers_of_one_kind_that_mlx_cannot_run_are_refused_in_words(config: dict[str, object], says: str) -> None:
    """mlx-lm looks for the first layer of each kind: the refusal was its `list index out of range`."""
    with pytest.raises(ModelError, match=says) as refused:
        mlx_config(config)
    assert "--backend torch" in refused.value.hint


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GEMMA3, None),
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 32_768, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 32_768}, None),
        ({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": True}, 16),
        ({"model_type": "llama"}, None),
    ],
)
def test_a_window_limits_what_mlx_runs_right(config: dict[str, object], limit: int | None) -> None:
    assert mlx_length_limit(config) == limit


def test_layers_of_an_unknown_kind_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="their layers use linear_attention"):
        Attention.of({"model_type": "odd", "layer_types": [FULL, "linear_attention"]})


def test_logits_are_divided_multiplied_or_capped() -> None:
    assert LogitTransform.of({"logits_scaling": 4.0}) == LogitTransform(0.25)
    assert LogitTransform.of({"logit_scale": 0.5}) == LogitTransform(0.5)
    assert LogitTransform.of({"final_logit_softcapping": 30.0}) == LogitTransform(1.0, 30.0)
    assert LogitTransform.of({}) == LogitTransform()


def test_a_head_is_tied_where_the_config_is_silent_and_the_class_ties_it() -> None:
    """Gemma 3 as the hub has it was trained, and then every export refused: "does not tie the head"."""
    tied = {"cohere", "gemma2", "gemma3_text", "gpt2", "smollm3"}
    plain = {"llama", "qwen2", "qwen3", "mistral", "phi3", "granite", "olmo2", "olmo3"}
    assert {kind for kind in tied | plain if ties_head({"model_type": kind})} == tied
    for kind in tied | plain:
        assert not ties_head({"model_type": kind, "tie_word_embeddings": False})
        assert ties_head({"model_type": kind, "tie_word_embeddings": True})
