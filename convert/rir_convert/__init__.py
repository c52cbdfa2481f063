"""Classifiers and adapters in other programs' formats, each verified against the model that was trained.

    from rir_convert import ExportOptions, export

    export("runs/demo", "qra", ExportOptions(to="hf")).folder      # transformers and vLLM open it

Importing the package imports nothing else: each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rir_convert.adapters import convert_adapter as convert_adapter
    from rir_convert.exporting import ExportOptions as ExportOptions
    from rir_convert.exporting import ExportResult as ExportResult
    from rir_convert.exporting import export as export
    from rir_convert.fusing import FuseOptions as FuseOptions
    from rir_convert.fusing import fuse as fuse
    from rir_convert.upload import push_folder as push_folder

_MODULE_OF = {
    "ExportOptions": "exporting",
    "ExportResult": "exporting",
    "FuseOptions": "fusing",
    "convert_adapter": "adapters",
    "export": "exporting",
    "fuse": "fusing",
    "push_folder": "upload",
}
__all__ = ["ExportOptions", "ExportResult", "FuseOptions", "convert_adapter", "export", "fuse", "push_folder"]


def __getattr__(name: str) -> Any:
    """A public name, whose module is imported when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
