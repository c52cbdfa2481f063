"""The classifier as an estimator of scikit-learn's kind: trained from lists, or loaded from a run.

    from rir_mlx import RirClassifier

    classifier = RirClassifier(recipe="demo", arm="qa").fit(texts, labels)      # no YAML
    classifier.predict(["i am afraid of the storm"])    # array(['fear'], dtype='<U7')
    classifier.predict_proba(texts)                     # [n, len(classifier.classes_)], each row sums to 1

    classifier = RirClassifier.load("runs/demo")        # what `rir-mlx run demo` trained
    classifier.explain(["the sun is out"])[0].reasoning
    classifier.score(["the sun is out"], ["joy"])

`fit` runs the stages of the command line in a run's folder. scikit-learn itself is imported only where it asks.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rir_mlx.classification.estimator import TextEstimator, checked_texts
from rir_mlx.data.labels.spelling import label_of
from rir_mlx.errors import UserError
from rir_mlx.progress import Printed, Silent
from rir_mlx.recipe.loading import load_recipe, name_from, validated
from rir_mlx.recipe.schema import DataSection, Recipe
from rir_mlx.recipe.values import ENOUGH_OWN_REASONINGS
from rir_mlx.storage.atomic import make_folder, replacing, write_jsonl
from rir_mlx.storage.digests import digest_of
from rir_mlx.types import Arm, BackendName, ReasonMode

if TYPE_CHECKING:
    from rir_mlx.stages.context import Context

_KEPT = frozenset(("max_samples", "val_size", "on_bad_rows"))
"""What a recipe says of its rows and what holds for those of `fit`, beside the instruction and the descriptions."""


class RirClassifier(TextEstimator):
    """A text classifier that can write its reasoning, with scikit-learn's conventions: `get_params`, `set_params`,
    `clone`, `cross_val_score` and `GridSearchCV` work. Nothing is done before `fit`.

    How it is trained: `model` is the base model (None: the recipe's), `arm` what it learns to write (`qa` the label,
    `qra` a reasoning and then the label, `qar` the label and then a reasoning), `instruction` the question that the
    labels answer, `descriptions` what labels mean. `recipe` holds every other key: a nested mapping
    (`{"classifier": {"epochs": 3}}`), or a recipe, its file or shipped name. Its rows, arms and seeds are replaced; its
    model, instruction and descriptions stand where none are given here. `run` is the folder that the training fills
    and that can be loaded later; None is a temporary one, which cross-validation needs: clones would all fill the same
    folder, and two at once are refused. `random_state` seeds the training, `verbose` prints its progress, `offline`
    fetches nothing, `backend` None is the recipe's.

    How it answers: `reason` says whether a reasoning is generated before the label ("never", "always", "auto"),
    `samples` over how many reasonings the probabilities are averaged, `batch_size` how many texts go through the model
    at once. With a `threshold`, `predict` gives "" instead of a label whose probability is below it; the probabilities
    do not change. None takes the threshold chosen for `evaluate.wanted_accuracy`, if any; if no threshold is shown to
    reach that accuracy, every label is "". `threshold=0` gives a label to every text.

    After `fit` or `load`: `classes_` are the labels, sorted; `classifier_` is the trained classifier, `run_` the folder
    that `fit` filled.

    All methods take texts as a list, a NumPy array [n] or a pandas Series, and answer in its order. They raise
    TypeError for a single string or another kind of table, and ValueError for a text that is empty or cannot be
    encoded, before any text is classified.
    """

    run_: Path

    def __init__(
        self,
        *,
        model: str | None = None,
        arm: Arm = "qra",
        instruction: str | None = None,
        descriptions: Mapping[str, str] | None = None,
        recipe: str | Path | Recipe | Mapping[str, Any] | None = None,
        run: str | Path | None = None,
        random_state: int = 0,
        backend: BackendName | None = None,
        offline: bool = False,
        verbose: bool = False,
        reason: ReasonMode = "always",
        samples: int = 1,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> None:
        self.model, self.arm = model, arm
        self.instruction, self.descriptions = instruction, descriptions
        self.recipe, self.run, self.random_state = recipe, run, random_state
        self.backend, self.offline, self.verbose = backend, offline, verbose
        self.reason, self.samples, self.batch_size = reason, samples, batch_size
        self.threshold = threshold

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters. Raises ValueError for a name that is none."""
        known = self.get_params()
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(f"Invalid parameter {name!r} for RirClassifier. Valid ones: {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def fit(self, texts: Iterable[str], labels: Iterable[Any], reasonings: Iterable[str | None] | None = None) -> Self:
        """Train on n texts and their labels: texts, numbers or truth values, which `predict` gives back as they are.
        Spellings that are one label in a table (`1` and `1.0`, `joy` and `joy `) are one here, with a warning.

        `reasonings` are your own, None or "" where R-Gen is to write one; if there is none, R-Gen learns from the
        recipe's `reasoning.source`. The arm `qa` needs none. A tenth of the rows decides which weights are kept and
        calibrates the probabilities (`data.val_size`). With the `run` of an earlier fit, stages whose inputs are the
        same are skipped.

        Raises ValueError if the lengths differ, if labels are of several kinds, if a nested mapping names another seed
        than `random_state`, or if `run` is no name of a run,
        RecipeError for a key or a value that is none of a recipe's, and the errors of the stages."""
        from rir_mlx.hub_access import without_network
        from rir_mlx.stages import open_run

        rows, values = _rows(texts, labels, reasonings)
        if self.threshold is not None and not all(isinstance(value, str) for value in values.values()):
            raise ValueError("a threshold withholds labels, which numbers cannot express: give the labels as texts")
        folder, temporary = self._run_folder()
        recipe = self._recipe(folder, rows)
        make_folder(folder)
        write_jsonl(Path(recipe.data.train.path), rows)
        with without_network(self.offline):
            context = open_run(recipe, self._options(folder))
            self.use(_trained(context, self.arm), values, context.recipe.evaluate.sample_temperature)
        self.run_ = folder
        self._temporary = temporary  # that of an earlier fit goes now, not before this one has worked
        return self

    def _run_folder(self) -> tuple[Path, Any]:
        """The run's folder, and what removes it once nobody refers to it, if it is a temporary one."""
        if self.run is not None:
            folder = Path(self.run)
            if name_from(folder.name) != folder.name:
                hint = folder.parent / name_from(folder.name)
                raise ValueError(f"run={str(self.run)!r}: a run's name has letters, digits, _ . - only: {str(hint)!r}")
            return folder, None
        temporary = tempfile.TemporaryDirectory(prefix="rir-mlx-")
        return Path(temporary.name) / "fit", temporary

    def _options(self, folder: Path) -> Any:
        from rir_mlx.stages import OpenOptions

        progress = Printed() if self.verbose else Silent()
        return OpenOptions(runs=folder.parent, backend=self.backend, offline=self.offline, progress=progress)

    def _recipe(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> Recipe:
        """The recipe of these rows."""
        base = self._base()
        data = base.data if "data" in base.model_fields_set else DataSection(train="rows")
        for key in ("label_separator", "soft_labels", "no_label"):
            if getattr(data, key):
                raise ValueError(f"recipe: fit takes one label a text; `rir-mlx run` trains with data.{key}")
        if isinstance(data.label_column, tuple):
            raise ValueError("recipe: fit takes one label a text; `rir-mlx run` trains with several label columns")
        names = sorted({row["label"] for row in rows})
        described = {**data.labels, **_described(self.descriptions or {}, names)}
        kept = data.model_dump(mode="json", include=data.model_fields_set & _KEPT)
        if kept.get("val_size", 0) > len(rows) / 2 and not isinstance(self.recipe, Mapping):
            del kept["val_size"]  # a number for more rows than these
        own = sum("reasoning" in row for row in rows)
        chosen: dict[str, Any] = {
            "name": folder.name,
            "seed": self.random_state,
            "data": {
                "train": str(folder / f"rows-{digest_of(rows)[:12]}.jsonl"),
                "text_column": "text",
                "label_column": "label",
                "reasoning_column": "reasoning" if own else None,
                "labels": {name: described.get(name, "") for name in names},
                "instruction": self.instruction or data.instruction,
                "max_samples": None,
                "val_size": 0.1,
                "test_size": 0,
            }
            | kept,
            "classifier": {"arms": [self.arm], "seeds": [self.random_state]},
        }
        chosen |= {"evaluate": {"samples": self.samples}} if self.samples > 1 else {}
        chosen |= {"model": self.model, "revision": None} if self.model is not None else {}
        named = isinstance(self.recipe, Mapping) and "source" in base.reasoning.model_fields_set
        chosen |= {"reasoning": {"source": None}} if own >= ENOUGH_OWN_REASONINGS and not named else {}
        values = base.model_dump(mode="json", exclude={"data"})
        return validated(_merged(values, chosen), "recipe")

    def _base(self) -> Recipe:
        """The recipe that was given. Of its rows, files included, nothing is read or written."""
        given = self.recipe
        if given is None:
            return Recipe()
        if not isinstance(given, Mapping):
            return load_recipe(given)
        keys = {key: value for key, value in given.items() if key != "data"}
        if (data := given.get("data")) is not None:
            keys["data"] = {"train": "rows", **data} if isinstance(data, Mapping) else data
        recipe = validated(keys, "recipe")
        self._check_seeds(recipe)
        return recipe

    def _check_seeds(self, recipe: Recipe) -> None:
        """Raise ValueError if a nested mapping names a seed that the training would not have."""
        named: dict[str, tuple[int, ...]] = {"seed": (recipe.seed,)} if "seed" in recipe.model_fields_set else {}
        if "seeds" in recipe.classifier.model_fields_set:
            named["classifier.seeds"] = recipe.classifier.seeds
        for key, seeds in named.items():
            if seeds != (self.random_state,):
                seed = ", ".join(map(str, seeds))
                hint = f"leave it out, or set random_state={seeds[0]}"
                raise ValueError(
                    f"recipe: {key} is {seed}, and random_state={self.random_state} seeds the training: {hint}"
                )

    def save(self, folder: str | Path) -> Path:
        """Copy the run that `fit` filled to a folder that `RirClassifier.load` and `rir-mlx classify --run` open.

        Raises UserError if the folder exists, or if the classifier was not trained by `fit`."""
        if not hasattr(self, "run_"):
            raise UserError("Only what fit trained can be saved.", hint="A run that was loaded has a folder already.")
        if Path(folder).exists():
            raise UserError(f"{folder} exists.", hint="Name another folder.")
        with replacing(Path(folder)) as whole:
            shutil.copytree(self.run_, whole)
        return Path(folder)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator: this is a classifier of texts."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
        )

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = {name: value for name, value in self.get_params().items() if value != parameters[name].default}
        return f"RirClassifier({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _trained(context: Context, arm: Arm) -> Any:
    """The arm after every stage that it needs, calibrated on the validation rows."""
    from rir_mlx import stages
    from rir_mlx.classification.loading import load_classifier

    if arm != "qa":
        if context.data.needs_rgen():
            stages.train_rgen(context)
        stages.augment_rows(context)
    stages.train_classifier(context, arm)
    stages.calibrate_arm(context, arm)
    return load_classifier(context.run, context.model, arm)


def _rows(
    texts: Iterable[str], labels: Iterable[Any], reasonings: Iterable[str | None] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows as they are written, and the labels as they were given, by name, if they are no texts."""
    checked, given = checked_texts(texts), _one_label_each(labels)
    own = [None] * len(checked) if reasonings is None else list(reasonings)
    if not len(checked) == len(given) == len(own):
        raise ValueError(f"{len(checked):,} texts, {len(given):,} labels and {len(own):,} reasonings")
    plain = [value.item() if isinstance(value, np.generic) else value for value in given]
    names, values = _names(plain)
    rows: list[dict[str, Any]] = []
    for place, (text, name) in enumerate(zip(checked, names, strict=True)):
        reasoning = _reasoning_of(own[place], place)
        rows.append({"text": text, "label": name} | ({"reasoning": reasoning} if reasoning else {}))
    return rows, values


def _names(plain: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
    """What each label is called in the run, and by name the labels that are given otherwise: numbers, truth values, and
    texts with other white space. A text keeps its spelling (`1.0`, `True`): metrics compare it with what was given.
    Warns of spellings that are taken for one label. Raises ValueError if labels are of several kinds."""
    kinds = {"texts" if isinstance(v, str) else "truth values" if isinstance(v, bool) else "numbers" for v in plain}
    names = [label_of(value) for value in plain]
    if len(kinds) > 1:
        raise ValueError(f"labels are {' and '.join(sorted(kinds))}: give them all as one kind, for example as texts")
    if kinds != {"texts"}:
        return names, dict(zip(names, plain, strict=True))
    spelt = defaultdict[str, list[str]](list)
    for name, label in dict.fromkeys(zip(names, plain, strict=True)):
        spelt[name].append(str(label))
    for name, several in spelt.items():
        if len(several) > 1:
            what = f"the labels {', '.join(map(repr, several))} are taken for one, {name!r}, which is what is answered"
            warnings.warn(what, UserWarning, stacklevel=4)
    called = {name: name if len(given) > 1 else " ".join(given[0].split()) for name, given in spelt.items()}
    values = {called[name]: given[0] for name, given in spelt.items() if len(given) == 1 and given[0] != called[name]}
    return [called[name] for name in names], values


def _described(descriptions: Mapping[Any, str], names: Collection[str]) -> dict[str, str]:
    """The descriptions by the names of the labels, which are given as the labels are. Warns of one that is of none."""
    found = {label_of(label, names): text for label, text in descriptions.items()}
    if odd := [name for name in found if name not in names]:
        warnings.warn(f"descriptions of labels that no text has: {', '.join(odd)}", UserWarning, stacklevel=4)
    return found


def _one_label_each(labels: Any) -> list[Any]:
    """The labels of a list, an array or a Series. Raises ValueError where a text has several, or votes."""
    several = labels if getattr(labels, "ndim", 1) != 1 else None
    given = [] if several is not None else list(labels)
    found = next(
        (value for value in given if isinstance(value, Collection) and not isinstance(value, str | bytes)), several
    )
    if found is not None:
        raise ValueError(
            f"fit takes one label a text, not a {type(found).__name__}; `rir-mlx run` trains with several labels "
            "(data.label_separator) and with votes (data.soft_labels)"
        )
    return given


def _reasoning_of(given: Any, place: int) -> str | None:
    """A reasoning, or None if it is missing: None, "", NaN or pandas' NA. Raises TypeError for another kind."""
    if isinstance(given, str):
        return given if given.strip() else None
    if given is None or type(given).__name__ in ("NAType", "NaTType") or (isinstance(given, float) and given != given):
        return None
    raise TypeError(f"reasonings[{place}] is not a string but {repr(given)[:60]}")


def _merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first. A source is replaced as a whole, and labels too."""
    found = dict(values)
    for key, value in more.items():
        nested = isinstance(value, Mapping) and isinstance(found.get(key), Mapping) and key not in ("source", "labels")
        found[key] = _merged(found[key], value) if nested else value
    return found


__all__ = ["RirClassifier"]
