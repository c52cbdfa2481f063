"""The parameters of a request, without those that the server turns out not to support."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rir_mlx.augmentation.engines.answers import UnknownParameter
from rir_mlx.backends.base import Sampling

_SEED_BITS = 31
"""Seeds that every server takes: some keep a seed in 32 bits, signed or not, and JSON readers may round above 2^53."""
_DEFAULT = Sampling()
_RENAMED = {"max_tokens": "max_completion_tokens"}


class RequestParameters:
    """What a request holds besides the message. `omitted` are never sent. A parameter that the server refuses as
    unknown is left out of all later requests, and the user is told once."""

    def __init__(self, tell: Callable[[str], None], omitted: Iterable[str] = ()) -> None:
        self.tell, self.omitted = tell, set(omitted)
        self.renamed: dict[str, str] = {}

    def of(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        # OpenAI refuses names that it does not know. mlx_lm.server answers requests with a seed one by one.
        extras = {name: getattr(sampling, name) for name in ("min_p", "repetition_penalty")}
        values: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stream": False,
            **({"seed": seed % (1 << _SEED_BITS)} if sampling.temperature > 0 else {}),
            **{name: value for name, value in extras.items() if value != getattr(_DEFAULT, name)},
        }
        return {self.renamed.get(name, name): value for name, value in values.items() if name not in self.omitted}

    def learn(self, refusal: UnknownParameter) -> None:
        """Leave out, or rename, what the server does not take."""
        original = {new: old for old, new in self.renamed.items()}
        for sent in sorted(refusal.names):
            name = original.get(sent, sent)
            if name in self.omitted or self.renamed.get(name, name) != sent:
                continue  # learned from another request's refusal
            if sent in _RENAMED:
                self.renamed[name] = _RENAMED[sent]
                self.tell(f"the server does not take {sent}; {_RENAMED[sent]} is sent instead.")
            else:
                self.omitted.add(name)
                self.tell(
                    f"the server does not take {sent}; it is left out. "
                    f"augment.omit_parameters=[{name}] leaves it out from the start."
                )
