"""How many positions are projected to the vocabulary together, so that their logits fit into a budget of memory."""

from __future__ import annotations

LOGIT_BYTES = 1 << 27
"""Float32 logits that are alive at a time: 261 positions of Llama 3's 128,256 words, 128 of Gemma's 262,144."""
_MOST = 256
"""More positions at a time make no product faster on a processor."""


def head_rows(vocabulary: int, *, gpu: bool = False) -> int:
    """Positions that training projects together: a power of two whose float32 logits fit into `LOGIT_BYTES`, and at
    most 256; four times both on a GPU with a memory of its own, which needs large products."""
    fitting = LOGIT_BYTES // (4 * vocabulary)
    rows = min(_MOST, 1 << max(0, fitting.bit_length() - 1))
    return 4 * rows if gpu else rows
