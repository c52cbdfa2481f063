"""The baselines that a trained arm should beat, on the test rows. Their predictions are kept like a stage's results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.classification.classifier import Classifier
from rir_mlx.data.labels.combinations import holds, place_of
from rir_mlx.data.rows import Row
from rir_mlx.errors import UserError
from rir_mlx.evaluation.baselines.embedding import embedding
from rir_mlx.evaluation.baselines.encoder import EncoderTexts, encoder
from rir_mlx.evaluation.entries import EntryPredictions
from rir_mlx.evaluation.score_cache import MadeWith, ScoreCache
from rir_mlx.models.fingerprint import fingerprint
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import counted
from rir_mlx.stages.context import Context, is_due
from rir_mlx.stages.measuring import cached, held_out, scoring_identity
from rir_mlx.statistics.intervals import FloatArray
from rir_mlx.statistics.several_labels import EVEN, answered_sets
from rir_mlx.statistics.tfidf import majority_probabilities, tfidf
from rir_mlx.storage.atomic import read_records, write_jsonl
from rir_mlx.storage.digests import digest_of, digest_of_file


def baseline_names(context: Context) -> list[str]:
    options = context.recipe.evaluate
    named = [name for name in options.baselines if name != "embedding"]
    return [*named, *(["embedding"] if options.embedding_model else []), *(["encoder"] if options.encoder else [])]


def measure_baseline(context: Context, name: str) -> EntryPredictions:
    """A baseline's probabilities for the test rows, computed unless they are there already."""
    stage, path = context.run.evaluation(name), context.run.predictions(name)
    inputs: dict[str, Any] = {
        "data": context.data.digest,
        "test_ids": context.data.test_ids_digest(),  # the same texts may stand at other places
        "seed": context.recipe.seed,
    }
    if (copied := held_out(context)[1]) is not None:
        inputs["copied"] = int(copied.sum())  # validation rows that choose nothing
    if context.task.no_label is not None:
        inputs["no_label"] = context.task.no_label  # which is given alone
    if name == "encoder":
        inputs["encoder"] = context.recipe.evaluate.encoder
        inputs |= own_files(context.recipe.evaluate.encoder)
    elif name == "embedding":
        inputs["embedding_model"] = context.recipe.evaluate.embedding_model
        inputs |= own_files(context.recipe.evaluate.embedding_model)
    elif name == "untuned":
        inputs["model"] = scoring_identity(context, None)
    if is_due(context, stage, inputs, f"baseline {name}"):
        stage.begin()
        if context.force:
            stage.score_journal.unlink(missing_ok=True)
        write_jsonl(path, predicted_rows(context, _probabilities(context, name)))
        stage.finish(inputs, made_with=sorted(context.measured_with.get(stage.folder, ())))
    elif made_with := (stage.done() or {"results": {}})["results"].get("made_with"):
        context.measured_with[stage.folder] = {MadeWith(*each) for each in made_with}
    again, labels = f"Delete {stage.record}; the baseline is then measured again.", context.data.names
    kept = list(read_records(path, lambda row: [float(row["probabilities"][label]) for label in labels], again))
    if len(kept) != (wanted := len(context.data.test_rows())):
        raise UserError(f"{path} holds {len(kept):,} of {counted(wanted, 'test row')}.", hint=again)
    return EntryPredictions(name, "baseline", np.array([kept]), probabilistic=name != "majority")


def own_files(name: str | None) -> dict[str, str]:
    """A hash of an encoder's files, as a stage's input, where it is a folder of one's own: those may change. Nothing
    for a name of the hub."""
    folder = Path(name or "").expanduser()
    if not name or not folder.is_dir():
        return {}
    inside = sorted(path for suffix in ("json", "safetensors") for path in folder.glob(f"*/*.{suffix}"))
    about = [*sorted(folder.glob("*.json")), *inside]
    files = [[path.relative_to(folder).as_posix(), digest_of_file(path)] for path in about]
    return {"files": digest_of([fingerprint(folder, sorted(folder.glob("*.safetensors"))), files])}


def majority_entry(context: Context) -> EntryPredictions:
    """The most frequent training label, whether or not it is one of the recipe's baselines."""
    return EntryPredictions("majority", "baseline", _probabilities(context, "majority")[None], probabilistic=False)


def predicted_rows(
    context: Context,
    probabilities: FloatArray,
    rows: Sequence[Row] | None = None,
    thresholds: FloatArray | None = None,
) -> Iterator[dict[str, Any]]:
    """The test rows, or others, with [rows, labels] probabilities, as lines of predictions.jsonl. Where a text may have
    several labels, `given` are those from their `thresholds` on."""
    labels = context.data.names
    rows = context.data.test_rows() if rows is None else rows
    given = _given(context, probabilities, thresholds) if context.data.single else repeat({}, len(rows))
    for row, row_probabilities, more in zip(rows, probabilities.tolist(), given, strict=True):
        best = max(range(len(labels)), key=row_probabilities.__getitem__)
        yield {
            "id": row.id,
            "text": row.text,
            "label": row.label,
            **({"shares": dict(row.shares)} if row.shares else {}),
            "predicted": labels[best],
            **more,
            "probabilities": dict(zip(labels, row_probabilities, strict=True)),
        }


def _given(
    context: Context, probabilities: FloatArray, thresholds: FloatArray | None
) -> Iterator[dict[str, list[str]]]:
    single = context.data.single
    even = np.full(len(single), EVEN)
    members = holds(context.data.names, single)
    alone = place_of(context.task.no_label, single)
    for has in answered_sets(probabilities, members, even if thresholds is None else thresholds, alone):
        yield {"given": [label for label, held in zip(single, has, strict=True) if held]}


def _probabilities(context: Context, name: str) -> FloatArray:
    """[rows, labels]"""
    data, labels = context.data, context.data.names
    texts = [row.text for row in context.data.test_rows()]
    train, validation = ([(row.text, row.label) for row in part] for part in (data.train, held_out(context)[0]))
    match name:
        case "majority":
            return majority_probabilities([label for _, label in train], labels, len(texts))
        case "tf-idf":
            return tfidf(train, texts, labels, context.recipe.seed, validation)
        case "encoder":
            model = resolve_model(context.recipe.evaluate.encoder or "", key="evaluate.encoder")
            known = EncoderTexts(labels, train, validation)
            return encoder(model, known, texts, progress=context.progress)
        case "embedding":
            model = resolve_model(context.recipe.evaluate.embedding_model or "", key="evaluate.embedding_model")
            known = EncoderTexts(labels, train, validation)
            return embedding(model, known, texts, context.recipe.seed, context.progress)
        case _:
            return _untuned_probabilities(context, texts)


def _untuned_probabilities(context: Context, texts: list[str]) -> FloatArray:
    def load() -> Classifier:
        return Classifier(context.model.load(), context.model.codec, context.task, "qa")

    def score(cache: ScoreCache) -> FloatArray:
        timed = cache.direct(texts, context.recipe.evaluate.batch_size, "evaluate untuned")
        return np.asarray(np.exp(timed.label_scores.log_probabilities))

    return cached(context, context.run.evaluation("untuned"), scoring_identity(context, None), load, score)
