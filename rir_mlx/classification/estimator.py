"""What a trained classifier answers, with scikit-learn's methods and column order.

Neither scikit-learn nor pandas is imported here; scikit-learn's metrics and scorers take the object as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends import open_backend
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.exported import ExportedRun, find_export
from rir_mlx.classification.loading import default_arm, load_classifier
from rir_mlx.classification.scores import Prediction
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.cells import checked_text
from rir_mlx.data.labels.combinations import combination, parts_of
from rir_mlx.data.labels.spelling import label_of
from rir_mlx.errors import UserError
from rir_mlx.models.hub import resolve_model
from rir_mlx.statistics.calibration import abstains
from rir_mlx.storage.layout import RunDir
from rir_mlx.training.recipe_model import RecipeModel
from rir_mlx.types import Arm, BackendName, ReasonMode

_CHUNK = 1024


class TextEstimator:
    """The methods of a trained classifier. A subclass has the parameters `reason`, `samples`, `batch_size` and
    `threshold`, and gets the classifier with `use`."""

    reason: ReasonMode
    samples: int
    batch_size: int
    threshold: float | None
    classifier_: Classifier
    temperature_: float
    _values: dict[str, Any]

    def use(
        self,
        classifier: Classifier,
        values: dict[str, Any] | None = None,
        temperature: float = PredictOptions.temperature,
    ) -> Self:
        """Answer with this classifier. `values` are the labels as the user gave them, by name, if they are no texts;
        `temperature` is that of several reasonings, as the recipe has it.

        Raises ValueError for a parameter that is out of its range."""
        self._check_parameters()
        self.classifier_ = classifier
        self.temperature_ = temperature
        self._values = values or {}
        if not classifier.is_calibrated(PredictOptions(self.reason, self.samples, temperature)):
            what = f"Probabilities over {self.samples} reasonings are not calibrated: {classifier.of_samples}."
            warnings.warn(what, UserWarning, stacklevel=3)
        return self

    def _check_parameters(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a probability, from 0 to 1, not {self.threshold}")
        if self.samples < 1 or self.batch_size < 1:
            raise ValueError("samples and batch_size are 1 or more")

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        arm: Arm | None = None,
        backend: BackendName | None = None,
        offline: bool = True,
        **parameters: Any,
    ) -> Self:
        """The classifier of a run's folder, or of an export's. Without an `arm` it is the one that `rir-mlx classify`
        uses; `backend` None is the recipe's. The base model must be on this machine, where the training has left it;
        with `offline` False it is fetched if it is missing. `parameters` are those of the class.

        Raises UserError if the folder holds no trained classifier, ModelError if the base model is missing.
        """
        folder = RunDir(Path(run))
        if not folder.recipe_file.is_file():
            folder = find_export(folder.folder) or folder
        if not isinstance(folder, ExportedRun) and not folder.recipe_file.is_file():
            raise UserError(f"{run} is no run's folder: it holds no recipe.yaml.", hint="For example: runs/demo")
        recipe = folder.recipe()
        files = resolve_model(recipe.model, recipe.revision, offline=offline)
        model = RecipeModel(recipe, open_backend(backend or recipe.backend), files)
        classifier = load_classifier(folder, model, arm or default_arm(folder))
        return cls(**parameters).use(classifier, temperature=recipe.evaluate.sample_temperature)

    @property
    def classifier(self) -> Classifier:
        """The trained classifier. Raises scikit-learn's NotFittedError if there is none yet."""
        if not hasattr(self, "classifier_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("This classifier is not trained: call fit, or load a run with RirClassifier.load.")
        return self.classifier_

    @property
    def _threshold(self) -> float | None:
        if self.threshold is not None:
            return self.threshold
        return self.classifier.answer_from(PredictOptions(self.reason, self.samples, self.temperature_))

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels [k], sorted: scikit-learn expects the columns of probabilities in that order. The order of the
        training data is in `classifier.task.names`."""
        return np.array([self._values.get(name, name) for name in self._names])

    @property
    def _names(self) -> list[str]:
        """The names of the labels in the order of `classes_`."""
        return sorted(self.classifier.task.names, key=lambda name: self._values.get(name, name))

    def predict(self, texts: Iterable[str]) -> NDArray[Any]:
        """The labels [n] of n texts; "" if the threshold is not reached. Raises ValueError if a label is withheld and
        labels are no texts: numbers cannot express it."""
        labels = [self._label(prediction) for prediction in self._predictions(texts)]
        if "" in labels and self.classes_.dtype.kind != "U":
            raise ValueError(
                f"{labels.count(''):,} of {len(labels):,} labels are withheld, which numbers cannot express: "
                "set threshold=0, or train with labels that are texts"
            )
        return np.array([self._values.get(label, label) for label in labels], dtype=self.classes_.dtype)

    def predict_proba(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """Probabilities [n, k] of n texts, columns as in `classes_`; each row sums to 1."""
        names = self._names
        rows = [[prediction.probabilities[name] for name in names] for prediction in self._predictions(texts)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(names))

    def explain(self, texts: Iterable[str]) -> list[Prediction]:
        """Everything about each text: label, probabilities by label, reasoning, and how many tokens were cut off. The
        label is the most probable one, whatever the threshold."""
        return self._predictions(texts, explained=True)

    def _predictions(self, texts: Iterable[str], *, explained: bool = False) -> list[Prediction]:
        """Predictions in the order of the texts. An arm that answers first reasons only if it is to explain."""
        self._check_parameters()  # `set_params` may have changed them
        checked = checked_texts(texts)
        reason = self.reason if explained or self.classifier.reasons_first else "never"
        options = PredictOptions(reason, self.samples, self.temperature_, self.batch_size)
        predictions: list[Prediction] = []
        for start in range(0, len(checked), _CHUNK):
            predictions += self.classifier.predict(checked[start : start + _CHUNK], options)
        return predictions

    def score(self, texts: Iterable[str], labels: Iterable[str]) -> float:
        """The accuracy on texts with known labels; a withheld label counts as wrong, and so does any answer where the
        label is none of `classes_`. Labels are read as in a table: `True` and `1.0` count as `true` and `1`, and
        NumPy's values as Python's; where numbers or truth values were trained on, `True` counts as 1.

        Where a text may have several labels, each of `labels` is a list, or a combination as `predict` gives it. An
        empty list is the label of texts that have none (`data.no_label`).

        Raises ValueError if a label is missing, or, where a text may have several, is not known."""
        truth = np.array([self._truth(label) for label in labels], dtype=np.str_)
        predicted = np.array([self._label(prediction) for prediction in self._predictions(texts)])
        if len(truth) != len(predicted):
            raise ValueError(f"{len(predicted):,} texts, but {len(truth):,} labels")
        if not len(truth):
            raise ValueError("there are no texts to score")
        return float(np.mean(predicted == truth))

    def _truth(self, label: Any) -> str:
        """What a text's label is called in predictions."""
        task = self.classifier.task
        if not task.combinations:
            name = label_of(label, task.names)
            if name in task.names or isinstance(label, str):
                return name
            return next((own for own, value in self._values.items() if value == label), name)  # 1 == True
        parts = label if isinstance(label, list | tuple | set) else parts_of(str(label))
        if not parts and task.no_label is None:
            raise ValueError("an empty list of labels: no label of the run is for texts that have none")
        known = [label_of(part, task.labels) for part in parts or [task.no_label]]
        if odd := [part for part in known if part not in task.labels]:
            raise ValueError(f"{odd[0]!r} is none of the labels; give a list where a text has several")
        return combination(known)

    def _label(self, prediction: Prediction) -> str:
        return "" if abstains(prediction.probability, self._threshold) else prediction.label


def checked_texts(given: Any) -> list[str]:
    """The texts of a list, an array or a Series. Raises TypeError or ValueError, naming the place."""
    if isinstance(given, (str, bytes)):
        raise TypeError("texts are a list, an array or a Series of strings; for a single text: [text]")
    if getattr(given, "ndim", 1) != 1 or isinstance(given, dict):
        raise TypeError(f"texts are one column, not a {type(given).__name__} of several: for example frame['text']")
    items = given.tolist() if hasattr(given, "tolist") else list(given)
    texts: list[str] = []
    for place, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(f"texts[{place}] is not a string but {repr(item)[:60]}")
        try:
            texts.append(str(checked_text(item, "text")))
        except ValueError as error:
            raise ValueError(f"texts[{place}]: {error}") from None
    return texts
