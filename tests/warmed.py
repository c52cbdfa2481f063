"""Imported last by the server that forks warm processes: what every one of them would do again."""

from __future__ import annotations

import gc
from contextlib import suppress

with suppress(ImportError):
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns, once

# The imported modules are a million objects. Forked processes share them, as long as no collection goes through them.
gc.collect()
gc.freeze()
