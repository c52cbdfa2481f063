"""rir-mlx: text classifiers that write a reasoning before the label, and an honest measure of whether it helped."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rir_mlx.api import RirClassifier as RirClassifier

__version__ = "0.1.0"
__all__ = ["RirClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    """`RirClassifier`, whose module is read when it is first asked for: importing the package stays quick."""
    if name == "RirClassifier":
        from rir_mlx.api import RirClassifier

        return RirClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
