"""The base model that a recipe names, to be trained or with a trained adapter."""

from __future__ import annotations

from functools import cached_property

from rir_mlx.backends import release_memory
from rir_mlx.backends.base import Backend, Model
from rir_mlx.errors import UserError
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.models.adapters import Adapter
from rir_mlx.models.hub import ModelFiles
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe


class RecipeModel:
    """The base model that a recipe names: its `files`, on a backend. The tokenizer is read when it is first needed."""

    def __init__(self, recipe: Recipe, backend: Backend, files: ModelFiles) -> None:
        self.recipe, self.backend, self.files = recipe, backend, files
        self._kept: Model | None = None

    def keep(self, model: Model) -> None:
        """Give a base model back that was loaded and not changed: the next `load` takes it."""
        self._kept = model

    @cached_property
    def codec(self) -> Codec:
        return Codec(self.files.folder, self.recipe.date)

    @cached_property
    def adapter_spec(self) -> AdapterSpec:
        """What the recipe trains on top of the base model."""
        lora = self.recipe.lora_parameters
        return AdapterSpec(
            self.recipe.fine_tune_type, self.recipe.num_layers, lora.rank, lora.scale, lora.dropout, lora.keys
        )

    @property
    def number_format(self) -> str:
        """What the base model is computed in on this machine, which decides what `auto` means."""
        wanted = self.adapter_spec.base_dtype(self.recipe.dtype)
        return self.backend.facts().auto if wanted == "auto" else wanted

    def load(self, adapter: Adapter | None = None) -> Model:
        """The base model's weights; with a trained adapter, or ready to be trained without one."""
        kept, self._kept = self._kept, None
        if kept is not None and adapter is None:
            return kept
        del kept
        release_memory()  # of the model before, which its optimizer points back to
        dtype = self.recipe.dtype
        if adapter is None:
            return self.backend.load(self.files.folder, dtype=self.adapter_spec.base_dtype(dtype))
        return self.backend.load(self.files.folder, dtype=dtype, adapter=(adapter.spec, adapter.tensors))

    def load_to_train(self) -> Model:
        """The base model's weights, for rows of `max_seq_length` tokens.

        Raises UserError if that is more than the backend computes right. The rows of a training may happen to be
        shorter, but evaluation and classify would refuse longer texts."""
        model, most = self.load(), self.recipe.max_seq_length
        if (longest := model.longest) is not None and most > longest:
            raise UserError(
                f"max_seq_length is {most:,}, but the backend computes this model right up to {longest:,} tokens.",
                hint=f"Set max_seq_length to at most {longest}.",
            )
        return model
