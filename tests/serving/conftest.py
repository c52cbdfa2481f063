"""A server that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rir_mlx.prompting.codec import Codec


@pytest.fixture(scope="session")
def address(codec: Codec) -> Iterator[str]:
    """Where a classifier with three labels is served, to everybody on this machine."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from served_models import fake_classifier, serving

    with serving(fake_classifier(codec)) as (address, _):
        yield address
