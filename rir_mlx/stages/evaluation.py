"""The trained arms and their baselines on the test rows, and the answer to "did reasoning help?"."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np

from rir_mlx import __version__
from rir_mlx.classification.classifier import Classifier
from rir_mlx.errors import UserError
from rir_mlx.evaluation.cleaning import cleaned
from rir_mlx.evaluation.comparison import (
    Entry,
    Floats,
    Rows,
    arm_entry,
    chosen,
    compared,
    doubt,
    warnings,
)
from rir_mlx.evaluation.encoder import LabelledRows, encoder
from rir_mlx.evaluation.report import examples_of, write_report
from rir_mlx.evaluation.score_cache import Reader
from rir_mlx.models.hub import resolve_model
from rir_mlx.recipe.loading import dump_recipe
from rir_mlx.stages.context import Context, is_due, on_main_process
from rir_mlx.stages.measuring import (
    Measured,
    explain,
    measure,
    reading_identity,
)
from rir_mlx.statistics.paired_tests import beats, verdict
from rir_mlx.statistics.tfidf import majority_probabilities, tfidf
from rir_mlx.storage.atomic import (
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from rir_mlx.storage.journal import Journal
from rir_mlx.types import CONTROLS, Arm

_SHOWN = 100
"""Examples of an outcome for which an arm that answers first is asked for its reasoning."""


@on_main_process
def evaluate(context: Context) -> dict[str, Any]:
    """Measure every trained arm on the test rows, beside the baselines, compare them, and write it all down. Returns
    the comparison (`comparison.json`)."""
    return _Evaluation(context).run()


class _Evaluation:
    def __init__(self, context: Context) -> None:
        self.context, self.folder, self.options = context, context.run, context.recipe.evaluate
        self.test = context.data.test_rows()
        self.texts = [row.text for row in self.test]
        self.seeds = context.recipe.classifier.seeds
        self.arms = self._trained()

    def run(self) -> dict[str, Any]:
        measured, entries = list[Measured](), list[Entry]()
        for arm in self.arms:
            one = measure(self.context, arm, self.rows)
            entries.append(arm_entry(arm, "control" if arm in CONTROLS else "arm", self.seeds, one, self.rows))
            measured.append(one.headlines())
        best = chosen(entries)
        self._write_predictions(measured, entries, best)
        entries += [self._baseline(name) for name in self._baselines()]
        comparison = self._comparison(entries, best)
        for line in comparison["entries"]:
            write_json(self.folder.figures(line["name"]), line)
        write_json(self.folder.comparison, comparison)
        examples: list[dict[str, Any]] = []
        if best is not None and "qa" in self.arms:
            paired = (read_jsonl(self.folder.predictions(arm)) for arm in ("qa", best))
            examples = examples_of(next(paired), next(paired), ("qa", best))
        write_report(self.folder.report, comparison, examples)
        return comparison

    def _comparison(self, entries: Sequence[Entry], best: str | None) -> dict[str, Any]:
        data, stats = self.context.data, self.folder.stats()
        lines, against = compared(entries, self.rows)
        for line in lines:
            line["training"] = None if line["kind"] == "baseline" else self._training(line["name"])
        answer = None
        if best is not None and "qa" not in self.arms:
            answer = f"Label-only (qa) is not trained, so nothing says whether reasoning ({best}) helped or hurt."
        elif best is not None:
            steps = {line["name"]: line["training"]["planned"] for line in lines if line["training"]}
            among = sum(line["kind"] == "arm" and line["name"] != "qa" for line in lines)
            answer = verdict(against[best], chosen_among=among if data.validation else 1)
            if beats(against[best]):
                answer += doubt(entries, best, self.rows)
            if steps["qa"] != steps[best]:
                answer = f"The arms were given different numbers of steps ({steps}): no verdict. Train them again."
        return {
            "version": 1,
            "run": self._card(),
            "labels": list(data.labels),
            "rows": {
                "train": len(data.train),
                "validation": len(data.validation),
                "test": len(self.test),
                "cleaned": int(self.rows.clean.sum()),
            },
            "verdict": answer,
            "chosen": best,
            "warnings": warnings(entries, self.rows),
            "entries": lines,
            "augmentation": read_json(stats) if stats.is_file() else None,
        }

    @cached_property
    def rows(self) -> Rows:
        data = self.context.data
        place = {label: index for index, label in enumerate(data.labels)}
        validation, test = (
            np.array([place[row.label] for row in part], dtype=np.int64) for part in (data.validation, self.test)
        )
        clean = cleaned([row.text for row in data.train], self.texts, [row.label for row in self.test])
        return Rows(list(data.labels), validation, test, clean)

    # arms

    def _trained(self) -> list[Arm]:
        """The recipe's arms that are trained, each with all seeds and on these rows."""
        context, found = self.context, list[Arm]()
        for arm in context.recipe.classifier.arms:
            done = [context.trained(arm, seed).done() for seed in self.seeds]
            if not any(done):
                continue
            if missing := [
                str(seed)
                for seed, one in zip(self.seeds, done, strict=True)
                if one is None or one["inputs"]["seed"] != seed  # the first seed's folder bears no number
            ]:
                raise UserError(
                    f"The {arm} classifier is not trained with seed {', '.join(missing)}.",
                    hint="Run `rir-mlx train-classifier`, or take the seed out of classifier.seeds.",
                )
            if any(one is not None and one["inputs"]["data"] != context.data.digest for one in done):
                raise UserError(
                    f"The {arm} classifier was trained on other rows, labels or splits than these: some of these test "
                    "rows may be among them.",
                    hint="Run `rir-mlx train-classifier` again.",
                )
            found.append(arm)
        if not found:
            raise UserError(
                f"{context.run.folder} has no trained classifier.", hint="Run `rir-mlx train-classifier` first."
            )
        return found

    def _training(self, arm: Arm) -> dict[str, Any]:
        done = [(self.context.trained(arm, seed).done() or {})["results"] for seed in self.seeds]
        means = {key: sum(one[key] for one in done) / len(done) for key in ("steps", "tokens", "seconds")}
        first = done[0]
        return means | {
            "planned": first.get("planned", first["steps"]),
            "rows": first["rows"],
            "best_step": [one["best_step"] for one in done],
        }

    # baselines

    def _baselines(self) -> list[str]:
        return [*self.options.baselines, *(["encoder"] if self.options.encoder else [])]

    def _baseline(self, name: str) -> Entry:
        """A baseline's answers for the test rows, kept as any stage's results are."""
        context, labels = self.context, self.rows.labels
        stage, path = self.folder.evaluation(name), self.folder.predictions(name)
        inputs: dict[str, Any] = {"data": context.data.digest, "seed": context.recipe.seed}
        if name == "encoder":
            inputs["encoder"] = self.options.encoder
        elif name == "untuned":
            inputs["model"] = reading_identity(context, None)
        if is_due(context, stage, inputs, f"baseline {name}"):
            stage.begin()
            if context.force:
                stage.readings.unlink(missing_ok=True)
            write_jsonl(path, self._answered(self._baseline_probabilities(name)))
            stage.finish(inputs)
        found = [[row["probabilities"][label] for label in labels] for row in read_jsonl(path)]
        return Entry(name, "baseline", np.array([found]), probabilistic=name != "majority")

    def _baseline_probabilities(self, name: str) -> Floats:
        context, data, labels = self.context, self.context.data, self.rows.labels
        train, validation = ([(row.text, row.label) for row in part] for part in (data.train, data.validation))
        if name == "majority":
            return majority_probabilities([label for _, label in train], labels, len(self.texts))
        if name == "tf-idf":
            return tfidf(train, self.texts, labels, context.recipe.seed, validation)
        if name == "encoder":
            rows = LabelledRows(labels, train, validation)
            model = resolve_model(self.options.encoder or "", key="evaluate.encoder")
            return encoder(model, rows, self.texts, progress=context.progress)
        stage = self.folder.evaluation(name)

        def load() -> Classifier:
            return Classifier(context.model.load(), context.model.codec, context.task, "qa")

        with Journal(stage.readings) as journal:
            reader = Reader(journal, reading_identity(context, None), load, context.progress)
            read = reader.direct(self.texts, self.options.batch_size, f"evaluate {name}")
        return np.asarray(np.exp(read.reading.log_probabilities))

    # what is written

    def _answered(self, probabilities: Floats) -> Iterator[dict[str, Any]]:
        for row, chances in zip(self.test, probabilities.tolist(), strict=True):
            best = max(range(len(chances)), key=chances.__getitem__)
            yield {
                "id": row.id,
                "text": row.text,
                "label": row.label,
                "predicted": self.rows.labels[best],
                "probabilities": dict(zip(self.rows.labels, chances, strict=True)),
            }

    def _write_predictions(self, measured: Sequence[Measured], entries: Sequence[Entry], best: str | None) -> None:
        """Every test row as each arm and seed answered it, with its calibrated probabilities."""
        for one, entry in zip(measured, entries, strict=True):
            for seed, answers, chances in zip(self.seeds, one.answers, entry.probabilities, strict=True):
                read = answers.test[answers.headline]
                reasonings = list(read.reasonings)
                if seed == self.seeds[0] and one.arm == best and answers.headline == "direct":
                    self._explain(one.arm, reasonings, chances, entries)
                more = zip(read.mass.tolist(), reasonings, read.tokens, strict=True)
                lines = (
                    row | {"mass": mass, "reasoning": reasoning, "tokens": tokens}
                    for row, (mass, reasoning, tokens) in zip(self._answered(chances), more, strict=True)
                )
                write_jsonl(self.folder.predictions(one.arm + self.context.seed_suffix(seed)), lines)

    def _explain(self, arm: Arm, reasonings: list[str | None], probabilities: Floats, entries: Sequence[Entry]) -> None:
        """Ask an arm that answers first for its reasonings, for the surest rows of each outcome beside label-only's."""
        predicted, truth = probabilities.argmax(1), self.rows.test
        right = predicted == truth
        label_only = next((entry.probabilities[0].argmax(1) for entry in entries if entry.name == "qa"), predicted)
        other, sure = label_only == truth, probabilities.max(1)
        shown: list[int] = []
        for group in (right & ~other, ~right & other, ~right & ~other, right & other):
            places = np.flatnonzero(group)
            shown += places[np.argsort(-sure[places], kind="stable")][:_SHOWN].tolist()
        texts, labels = (
            [of[place] for place in shown] for of in (self.texts, [self.rows.labels[i] for i in predicted])
        )
        for place, reasoning in zip(shown, explain(self.context, arm, texts, labels), strict=True):
            reasonings[place] = reasoning

    def _card(self) -> dict[str, Any]:
        """Where the figures come from."""
        context, recipe, base = self.context, self.context.recipe, self.context.model.files
        versions = {"rir-mlx": __version__, "python": platform.python_version()}
        for package in ("numpy", "scikit-learn", "transformers", "torch", "mlx", "mlx-lm"):
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        sources = {part: getattr(recipe.data, part) for part in ("train", "validation", "test")}
        return {
            "name": self.folder.folder.name,
            "command": context.command,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions,
            "backend": context.backend.name,
            "device": context.backend.device().name,
            "seed": recipe.seed,
            "seeds": list(self.seeds),
            "model": {"name": base.name, "revision": base.revision, "fingerprint": base.fingerprint},
            "data": {"digest": context.data.digest}
            | {part: one.path if one else None for part, one in sources.items()},
            "recipe": dump_recipe(recipe),
        }
