"""rir-mlx: text classifiers that write a reasoning before the label, and an honest measure of whether it helped.

    import rir_mlx

    comparison = rir_mlx.run("demo")                        # every stage: the embedded data and model, offline
    print(comparison.verdict)

    recipe = rir_mlx.Recipe(name="mine", data={"train": "rows.csv", "val_size": 0.1, "test_size": 0.2})
    rir_mlx.train_classifier(recipe, arms=["qa"])           # or one stage at a time

    classifier = rir_mlx.RirClassifier.load("runs/demo")    # scikit-learn's methods
    classifier.predict(["the storm is over and i can laugh"])

`RirClassifier(recipe="demo", arm="qa").fit(texts, labels)` trains from lists, without a recipe of one's own.

Importing the package imports nothing else: each name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rir_mlx.errors import DataError as DataError
    from rir_mlx.errors import Failure as Failure
    from rir_mlx.errors import ModelError as ModelError
    from rir_mlx.errors import OutOfMemory as OutOfMemory
    from rir_mlx.errors import RecipeError as RecipeError
    from rir_mlx.errors import RirError as RirError
    from rir_mlx.errors import UserError as UserError
    from rir_mlx.estimator import RirClassifier as RirClassifier
    from rir_mlx.pipeline import AugmentationResult as AugmentationResult
    from rir_mlx.pipeline import TrainingResult as TrainingResult
    from rir_mlx.pipeline import augment as augment
    from rir_mlx.pipeline import evaluate as evaluate
    from rir_mlx.pipeline import pilot as pilot
    from rir_mlx.pipeline import run as run
    from rir_mlx.pipeline import train_classifier as train_classifier
    from rir_mlx.pipeline import train_rgen as train_rgen
    from rir_mlx.recipe.loading import load_recipe as load_recipe
    from rir_mlx.recipe.schema import Recipe as Recipe

__version__ = "0.1.0"

_MODULES = {
    "rir_mlx.estimator": ("RirClassifier",),
    "rir_mlx.errors": (
        "DataError",
        "Failure",
        "ModelError",
        "OutOfMemory",
        "RecipeError",
        "RirError",
        "UserError",
    ),
    "rir_mlx.pipeline": (
        "AugmentationResult",
        "TrainingResult",
        "augment",
        "evaluate",
        "pilot",
        "run",
        "train_classifier",
        "train_rgen",
    ),
    "rir_mlx.recipe.loading": ("load_recipe",),
    "rir_mlx.recipe.schema": ("Recipe",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "AugmentationResult",
    "DataError",
    "Failure",
    "ModelError",
    "OutOfMemory",
    "Recipe",
    "RecipeError",
    "RirClassifier",
    "RirError",
    "TrainingResult",
    "UserError",
    "__version__",
    "augment",
    "evaluate",
    "load_recipe",
    "pilot",
    "run",
    "train_classifier",
    "train_rgen",
]


def __getattr__(name: str) -> Any:
    """A public name, whose module is imported when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
