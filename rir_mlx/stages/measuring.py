"""Every trained arm scored on the validation and test rows, and calibrated. Scores are cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rir_mlx.backends.processes import decide_on_main, is_main, own_places
from rir_mlx.classification.classifier import Classifier
from rir_mlx.classification.loading import load_classifier
from rir_mlx.classification.scores import LabelScores
from rir_mlx.classification.scoring import PredictOptions
from rir_mlx.data.rows import Row
from rir_mlx.data.splits import nested_part
from rir_mlx.evaluation.cleaning import copies_note
from rir_mlx.evaluation.schema import Faithfulness, Probe
from rir_mlx.evaluation.score_cache import OtherFormatError, ScoreCache, TimedScores
from rir_mlx.evaluation.scores import (
    FEWEST_TO_CALIBRATE,
    ClassifierScores,
    EvaluationRows,
    MeasuredArm,
    calibrate,
    distributions,
)
from rir_mlx.models import adapters
from rir_mlx.prompting.ablations import corrupt, swap_among, vocabulary
from rir_mlx.prompting.prompts import answers_twice, reasons_first
from rir_mlx.stages.context import Context, exclusive, is_due, on_main_process
from rir_mlx.stages.training import CURVE_PARTS
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.atomic import write_json
from rir_mlx.storage.digests import digest_of
from rir_mlx.storage.journal import Journal, add_ranks_results, open_share, remove_ranks_results, shares_elsewhere
from rir_mlx.storage.layout import Stage
from rir_mlx.types import Arm, Way

T = TypeVar("T")

_PROBED_ROWS = 500
"""Test rows on which the faithfulness of reasonings is probed."""
_IRRELEVANT_KEYS = {"batch_size", "baselines", "encoder", "embedding_model"}
"""Keys of `evaluate` that do not change an arm's scores."""


def measure(context: Context, arm: Arm, rows: EvaluationRows) -> MeasuredArm:
    """Score the validation and test rows with every seed of an arm. Writes its calibration beside the adapter."""
    scores, calibrations = [], []
    for seed in context.recipe.classifier.seeds:
        measured = _ArmMeasurement(context, arm, seed).scores(rows)
        calibration = _calibrate_and_store(context, (arm, seed), measured, rows)
        scores.append(measured)
        calibrations.append(calibration)
    return MeasuredArm(arm, scores, calibrations)


def measure_learning_curve(
    context: Context, measured: MeasuredArm, rows: EvaluationRows
) -> Mapping[int, NDArray[np.bool_]]:
    """Score the test rows with the arm of the learning curve as it was trained on parts of the training rows: which of
    the compared test rows are correct, by the number of training rows. Empty, with a note, if it was not trained on
    parts of the present rows as on all of them. `measured` is the arm trained on all of them."""
    arm, keep = measured.arm, rows.compared
    whole = context.trained(arm, context.recipe.classifier.seeds[0]).done() or {"inputs": {}}
    texts = [row.text for row in context.data.test]
    found = {len(context.data.train): measured.scores[0].test[measured.main_way].scores.argmax(1) == rows.test}
    for percent in CURVE_PARTS:
        stage = context.run.curve(arm, percent)
        done = stage.done()
        if done is None or done["inputs"] != whole["inputs"] | {"percent": percent}:
            left_out = "the learning curve is left out; `rir-mlx train-classifier` trains its parts, or says why not."
            context.progress.say(f"note: {left_out}")
            return {}
        adapter = adapters.read_adapter(stage.adapter, context.model.files)

        def load(adapter: adapters.Adapter = adapter) -> Classifier:
            return Classifier(context.model.load(adapter), context.model.codec, context.task, arm)

        def scored(cache: ScoreCache, what: str = f"evaluate {arm} on {percent} % of the rows") -> LabelScores:
            score = cache.direct if measured.main_way == "direct" else cache.reasoned
            return score(texts, context.recipe.evaluate.batch_size, what).label_scores

        identity = scoring_identity(context, adapters.weights_digest(stage))
        scores = cached(context, stage, identity, load, scored)
        strata = context.data.labelled.strata
        part = len(nested_part(context.data.train, percent, context.recipe.seed, strata))
        found[part] = scores.scores.argmax(1) == rows.test
    return {size: correct[keep] for size, correct in found.items()}


def score_shares(context: Context, arms: Sequence[Arm]) -> None:
    """In every process, score a share of the validation and test rows with every seed of the arms: the main process
    into the journals of scores, the others into one each, which `measure` adds to it."""
    processes = context.processes
    opened = [_ArmMeasurement(context, arm, seed) for arm in arms for seed in context.recipe.classifier.seeds]
    if decide_on_main(processes, lambda: sum(each.begin_shares() for each in opened) > 0):
        for measurement in opened:
            measurement.score_share()
        processes.all_sum([0.0])  # all have written what the main process reads next
        paths = [each.stage.score_journal for each in opened if each.stage.done() is None]
        if is_main(processes) and (warning := shares_elsewhere(paths[0], processes.size)):
            context.progress.warn(warning)


def _calibrate_and_store(
    context: Context, arm_and_seed: tuple[Arm, int], scores: ClassifierScores, rows: EvaluationRows
) -> Calibration:
    """The calibration of an arm trained with a seed, which is written beside the adapter that it is of."""
    options, stage = context.recipe.evaluate, context.trained(*arm_and_seed)
    calibration = calibrate(scores, rows, options.wanted_accuracy, options.samples)
    if calibration.samples:
        calibration = replace(calibration, sample_temperature=options.sample_temperature)
    stored = {"adapter": adapters.weights_digest(stage)}
    write_json(stage.calibration, stored | {"calibration": calibration.as_dict()})
    return calibration


@exclusive
@on_main_process
def calibrate_arm(context: Context, arm: Arm) -> None:
    """Calibrate the first seed of an arm on the validation rows, without measuring anything on test rows. An evaluation
    later fits the same again, from the same cached scores. With fewer than 20 validation rows that are no copies of
    training rows, nothing is scored."""
    (rows, copied), seed = held_out(context), context.recipe.classifier.seeds[0]
    if copied is not None:
        context.progress.say(f"note: {copies_note(int(copied.sum()), len(copied))}")
    main_way: Way = "reasoned" if reasons_first(arm) else "direct"
    scores: dict[Way, LabelScores] = {}
    if len(rows) >= FEWEST_TO_CALIBRATE:
        scores = _ArmMeasurement(context, arm, seed).validation_scores()
    labels, single = context.data.names, context.data.single
    truth = np.array([labels.index(row.label) for row in rows], dtype=np.int64)
    nothing = np.array([], dtype=np.int64)
    shares = (distributions(rows, labels), distributions((), labels)) if context.recipe.data.soft_labels else None
    clean = nothing.astype(bool)
    known = EvaluationRows(labels, truth, nothing, clean, single=single, shares=shares, copied=copied)
    measured = ClassifierScores(main_way, scores, {}, {})
    _calibrate_and_store(context, (arm, seed), measured, known)


def held_out(context: Context) -> tuple[Sequence[Row], NDArray[np.bool_] | None]:
    """The validation rows without copies of training rows, and which of all are such; None if none is."""
    copied = context.data.copied
    return context.data.held_out, copied if copied.any() else None


def explain(context: Context, arm: Arm, texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The reasonings that the first seed of an arm generates after these labels."""
    return _ArmMeasurement(context, arm, context.recipe.classifier.seeds[0]).explanations(texts, labels)


def scoring_identity(context: Context, adapter: str | None) -> str:
    """A hash of everything that decides a text's scores, apart from the text, the way of scoring and what `dtype: auto`
    means: a measurement that is done stays so where it means another format."""
    recipe = context.recipe
    prompt = [recipe.data.instruction, context.data.labels, recipe.date, recipe.evaluate.max_reasoning_tokens]
    prompt += [context.data.names] if context.data.single else []
    model = [adapter, context.model.files.fingerprint, recipe.dtype, context.backend.name == "fake"]
    return digest_of([*model, recipe.max_seq_length, prompt])


def cached(
    context: Context, stage: Stage, identity: str, load: Callable[[], Classifier], score: Callable[[ScoreCache], T]
) -> T:
    """What `score` makes of a stage's cached scores. If some must be computed, and those that are there were computed
    in another number format, these are discarded first: no measurement mixes two."""
    while True:
        with Journal(stage.score_journal) as journal:
            add_ranks_results(journal)
            cache = ScoreCache(journal, identity, load, context.progress, context.made_with)
            try:
                found = score(cache)
            except OtherFormatError:
                others = sorted(cache.other_formats())
            else:
                context.measured_with.setdefault(stage.folder, set()).update(cache.used)
                return found
        _say_discarded(context, others)
        stage.score_journal.unlink()


def _say_discarded(context: Context, formats: Sequence[str]) -> None:
    found = " and ".join(formats)
    context.progress.say(f"note: scores in {found} are discarded, for here it is {context.model.number_format}.")


class _MissingError(Exception):
    """A score is not cached."""


class _ArmMeasurement:
    """One arm and seed, scored on the rows."""

    def __init__(self, context: Context, arm: Arm, seed: int) -> None:
        self.context, self.arm, self.seed = context, arm, seed
        self.name = arm + context.seed_suffix(seed)
        self.stage = context.run.evaluation(self.name)
        self.options = context.recipe.evaluate
        self.adapter = adapters.weights_digest(context.trained(arm, seed))
        self.identity = scoring_identity(context, self.adapter)

    def _inputs(self) -> dict[str, Any]:
        return {
            "adapter": self.adapter,
            "data": self.context.data.digest,
            "evaluate": self.options.model_dump(mode="json", exclude=_IRRELEVANT_KEYS),
            "max_seq_length": self.context.recipe.max_seq_length,
            "readings": self.identity,
        }

    def begin_shares(self) -> bool:
        """Whether there is anything to score; the main process's part before all score their shares."""
        if self.stage.why_not_done(self._inputs()) is None and not self.context.force:
            return False
        self.context.lock.lock()
        self._discard_stale()
        self.stage.begin()
        with Journal(self.stage.score_journal) as journal:
            add_ranks_results(journal)
            others = [] if self._is_complete(journal) else sorted(self._cache(journal).other_formats())
        if others:
            _say_discarded(self.context, others)
            self._discard_cached()
        return True

    def _is_complete(self, journal: Journal) -> bool:
        """Whether the journal holds all scores of the validation and test rows."""

        def load() -> Classifier:
            raise _MissingError

        cache = ScoreCache(journal, self.identity, load, self.context.progress, self.context.made_with)
        cache.may_mix = True
        try:
            for part in ("validation", "test"):
                self._part_scores(cache, part, [row.text for row in getattr(self.context.data, part)])
        except _MissingError:
            return False
        return True

    def score_share(self) -> None:
        if self.stage.done() is not None:
            return
        with open_share(self.stage.score_journal, self.context.processes.rank) as journal:
            for part in ("validation", "test"):
                texts = [row.text for row in getattr(self.context.data, part)]
                own = [texts[place] for place in own_places(self.context.processes, texts)]
                cache = self._cache(journal)
                cache.may_mix = True  # `begin_shares` has seen to it
                self._part_scores(cache, part, own)

    def _discard_stale(self) -> None:
        """Remove cached scores of another model or prompt, and the record of their measurement."""
        before = self.stage.done()
        if self.context.force or (before is not None and before["inputs"].get("readings") != self.identity):
            self.stage.begin()
            self._discard_cached()

    def _discard_cached(self) -> None:
        self.stage.score_journal.unlink(missing_ok=True)
        remove_ranks_results(self.stage.score_journal)

    def scores(self, rows: EvaluationRows) -> ClassifierScores:
        context, stage, inputs = self.context, self.stage, self._inputs()
        due = is_due(context, stage, inputs, f"evaluation {self.name}")
        if context.processes.size == 1:  # otherwise `begin_shares` has done so
            self._discard_stale()
        if due:
            stage.begin()
        found = self._cached(lambda cache: self._classifier_scores(cache, rows))
        if due:
            stage.finish(inputs)
        return found

    def validation_scores(self) -> dict[Way, LabelScores]:
        """By the ways of scoring that a calibration needs."""
        texts, size = [row.text for row in self.context.data.validation], self.options.batch_size
        what = f"calibrate {self.name}"
        self._discard_stale()

        def score(cache: ScoreCache) -> dict[Way, LabelScores]:
            direct = cache.direct(texts, size, what)
            found: dict[Way, LabelScores] = {"direct": direct.label_scores}
            if reasons_first(self.arm):
                firsts = self._firsts(direct.label_scores)
                found["reasoned"] = cache.reasoned(texts, size, f"{what}, reasoning", firsts).label_scores
            return found

        return self._cached(score)

    def _firsts(self, direct: LabelScores) -> list[str] | None:
        """The labels that an arm which answers twice gives before its reasoning."""
        if not answers_twice(self.arm):
            return None
        names = self.context.task.names
        return [names[best] for best in direct.scores.argmax(1)]

    def explanations(self, texts: Sequence[str], labels: Sequence[str]) -> list[str]:
        def explained(cache: ScoreCache) -> list[str]:
            cache.may_mix = True  # texts to read, of which no figure is made
            what = f"evaluate {self.name}: reasonings to show"
            return cache.explanations(texts, labels, self.options.batch_size, what)

        return self._cached(explained)

    def _load(self) -> Classifier:
        return load_classifier(self.context.run, self.context.model, self.arm, self.seed)

    def _cached(self, score: Callable[[ScoreCache], T]) -> T:
        return cached(self.context, self.stage, self.identity, self._load, score)

    def _cache(self, journal: Journal) -> ScoreCache:
        return ScoreCache(journal, self.identity, self._load, self.context.progress, self.context.made_with)

    def _classifier_scores(self, cache: ScoreCache, rows: EvaluationRows) -> ClassifierScores:
        data = self.context.data
        validation, _ = self._part_scores(cache, "validation", [row.text for row in data.validation])
        test, chains = self._part_scores(cache, "test", [row.text for row in data.test])
        test_scores = {way: timed.label_scores for way, timed in test.items()}
        seconds = {way: timed.seconds for way, timed in test.items()}
        if answers_twice(self.arm):  # the first label is part of every other answer
            seconds |= {way: spent + seconds["direct"] for way, spent in seconds.items() if way != "direct"}
        probed = reasons_first(self.arm) and self.seed == self.context.recipe.classifier.seeds[0]
        return ClassifierScores(
            main_way="reasoned" if reasons_first(self.arm) else "direct",
            validation={way: timed.label_scores for way, timed in validation.items()},
            test=test_scores,
            seconds=seconds,
            chains=chains,
            faithfulness=self._faithfulness(cache, test_scores, rows) if probed else None,
        )

    def _part_scores(
        self, cache: ScoreCache, part: str, texts: Sequence[str]
    ) -> tuple[dict[Way, TimedScores], list[LabelScores]]:
        """The scores of a part's texts by way of scoring, and of each drawn reasoning."""
        options, what = self.options, f"evaluate {self.name}: {part}"
        found: dict[Way, TimedScores] = {"direct": cache.direct(texts, options.batch_size, what)}
        if not reasons_first(self.arm):
            return found, []
        firsts = self._firsts(found["direct"].label_scores)
        found["reasoned"] = cache.reasoned(texts, options.batch_size, f"{what}, reasoning", firsts)
        if options.samples == 1:
            return found, []
        sampling = PredictOptions(
            samples=options.samples, temperature=options.sample_temperature, batch_size=options.batch_size
        )
        drawn = cache.sampled(texts, sampling, f"{what}, {sampling.samples} reasonings", firsts)
        chains = [timed.label_scores for timed in drawn]
        found["sampled"] = TimedScores(LabelScores.averaged(chains), sum(timed.seconds for timed in drawn))
        return found, chains

    def _faithfulness(self, cache: ScoreCache, scores: Mapping[Way, LabelScores], rows: EvaluationRows) -> Faithfulness:
        """How often the label changes when the reasoning is that of a row with another label, or half of its words are
        replaced (arXiv:2307.13702). A label that stays does not depend on its reasoning."""
        texts = [row.text for row in self.context.data.test[:_PROBED_ROWS]]
        count, truth = len(texts), rows.test[:_PROBED_ROWS]
        own, firsts = scores["reasoned"], self._firsts(scores["direct"])
        predicted = own.scores[:count].argmax(1)
        reasonings = [reasoning or "" for reasoning in own.reasonings[:count]]
        words = vocabulary(reasonings)

        def probe(kind: str, replaced: Sequence[str]) -> Probe:
            what = f"evaluate {self.name}: {kind} reasonings"
            timed = cache.given(texts, replaced, self.options.batch_size, what, firsts and firsts[:count])
            after = timed.label_scores.scores.argmax(1)
            return Probe(flips=float(np.mean(after != predicted)), accuracy=float(np.mean(after == truth)))

        return Faithfulness(
            rows=count,
            accuracy=float(np.mean(predicted == truth)),
            swapped=probe("swapped", swap_among(reasonings, [rows.labels[label] for label in predicted], 0)),
            corrupted=probe("corrupted", [corrupt(reasoning, 0, words) for reasoning in reasonings]),
        )
