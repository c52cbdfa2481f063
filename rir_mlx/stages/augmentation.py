"""Between the stages: every labelled row gets a reasoning."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from rir_mlx.augmentation.engines.base import Engine, LabelQuestion, ReasoningRequest
from rir_mlx.augmentation.engines.local import LocalEngine
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import AugmentationJob, AugmentationSettings, flag
from rir_mlx.augmentation.leakage import LabelledReasoning, ReservoirSample, leakage
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.backends.base import Model, Request, Sampling
from rir_mlx.classification.classifier import Classifier
from rir_mlx.data.rows import Row
from rir_mlx.data.tables.table import SUFFIXES
from rir_mlx.errors import NoServer, UserError
from rir_mlx.interrupts import Interrupts
from rir_mlx.models import adapters
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.prompts import answer_format, classifier_prompt
from rir_mlx.prompting.room import prompt_room, rgen_room
from rir_mlx.stages.context import Context, is_due, on_main_process
from rir_mlx.stages.run_data import row_ids_digest
from rir_mlx.storage.atomic import make_folder, replacing, write_json
from rir_mlx.storage.digests import changes, digest_of, digest_of_file
from rir_mlx.storage.journal import Journal
from rir_mlx.training.cost import generation_cost

_SAMPLE = 256
"""Rows that the cost of all of them is estimated from."""
_HOW_FAST = {"batch_size", "concurrency", "timeout", "workers", "base_url", "server_model", "engine"}
"""Keys that change how reasonings are written, and not what comes out. What `engine` changes is the model."""
_TEST = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)


@on_main_process
def augment_rows(context: Context, limit: int | None = None) -> dict[str, Any] | None:
    """A reasoning for each training and validation row; those that pass the filters are kept. Returns the statistics,
    or None where the stage was done already. With a `limit` only so many rows are looked at, and the stage is not done
    by that unless these are all."""
    return _Stage(context, limit).run()


def exact_prompts(context: Context, count: int) -> Iterator[dict[str, Any]]:
    """What would be sent to the model for the first rows: the text of the prompt with its control tokens, or for a
    server the message, and its length in tokens."""
    stage = _Stage(context, count)
    for row in stage.rows:
        if row.reasoning is not None:
            continue
        order = ReasoningRequest("", row.text, row.label, 0)
        encoded = context.model.codec.encode(stage.question.prompt(order), stage.room)
        text = context.model.codec.decode(encoded.prefix + encoded.row)
        if stage.remote:
            from rir_mlx.augmentation.engines.server import fitted_order

            fitted, _ = fitted_order(order, stage.question, context.model.codec, stage.room)
            text = stage.question.prompt(fitted).message
        length = len(encoded.prefix) + len(encoded.row)
        yield {"text": row.text, "label": row.label, "prompt": text, "tokens": length, "trimmed": encoded.trimmed}


class _Stage:
    """The stage's settings, and its steps in their order."""

    def __init__(self, context: Context, limit: int | None) -> None:
        recipe, data = context.recipe, context.data
        self.context, self.options, self.limit = context, recipe.augment, limit
        _refuse_test_rows(context)
        self.train = len(data.train)
        self.rows: list[Row] = [*data.train, *data.validation][:limit]
        self.question = LabelQuestion(list(data.labels), recipe.data.instruction)
        self.room = rgen_room(recipe.max_seq_length, self.options.max_tokens)
        self.remote = self.options.engine == "openai"
        self.writes = any(row.reasoning is None for row in self.rows)
        self._model: Model | None = None

    def run(self) -> dict[str, Any] | None:
        context, run = self.context, self.context.run
        if self.writes and not self.remote and run.rgen.done() is None:
            raise UserError(
                "R-Gen has not been trained in this run.",
                hint="Run `rir-mlx train-rgen` first. (Or let a server's model write: --engine openai --base-url URL.)",
            )
        self._check_room()
        engine: Engine | None = None
        identity = self._identity()
        if self.remote and self.writes:
            try:
                engine = self._remote_engine()
                identity = engine.identity()
            except NoServer:
                if (writer := self._writer_when_done()) is None:
                    raise
                identity = writer
        inputs = self._inputs(identity)
        if not is_due(context, run.augmented, inputs, "augmentation", begins=False):
            return None
        judge = ReasoningFilters(
            context.model.codec, self.question.labels, self.question.instruction, self.options.filters
        )
        make_folder(run.augmented.folder)
        if context.force and run.journal().is_file():
            os.replace(run.journal(), run.old_journal())
        with (
            Interrupts(loud=True, first="Finishes the rows that are being written") as interrupts,
            Journal(run.journal(), flag(judge)) as journal,
        ):
            job = AugmentationJob(self.rows, self._job(), identity, judge, journal)
            due = self._say_what_is_there(job, journal)
            writes = job.is_due()
            if writes:
                engine = engine or self._engine(identity, due)
            context.run.save_recipe(context.recipe)  # from here on it can only be stopped, and go on
            run.augmented.begin()
            if writes and engine:
                try:
                    job.write(engine, context.progress, lambda: interrupts.asked)
                finally:
                    engine.close()
            if job.choices_due() and not interrupts.asked:
                size = self.options.batch_size
                job.choose(self._scorer(), context.progress, batch_size=size, stopped=lambda: interrupts.asked)
            if interrupts.asked:
                raise KeyboardInterrupt
            stats = self._write_down(job, judge)
        if len(self.rows) < self.train + len(context.data.validation):
            context.progress.say(f"These are the first {len(self.rows):,} rows; without --limit it continues.")
        else:
            run.augmented.finish(inputs, **stats["train"])
        return stats

    def _writer_when_done(self) -> dict[str, str] | None:
        """The server's model by which the stage was done, where all else is as it was then: what is done needs no
        server that is there to say what model it has."""
        done = self.context.run.augmented.done()
        writer: dict[str, str] = done["inputs"]["writer"] if done else {}
        if done is None or self.context.force or writer.get("engine") != "openai":
            return None
        return None if changes(done["inputs"], self._inputs(writer)) else writer

    def _check_room(self) -> None:
        """Whoever chooses reads the classifier's prompt. Raises UserError where a text would have no room in it: better
        now than after hours of writing."""
        if self.options.n > 1:
            task, codec = self._scoring_task(), self.context.model.codec
            prompt = classifier_prompt("", task.labels, task.instruction, answer_format("qra"))
            codec.encode(prompt, prompt_room(codec, task, "qra", reasoning=True))

    def _scoring_task(self) -> ClassificationTask:
        """What the model is asked that chooses among several reasonings of a row."""
        return replace(self.context.task, max_reasoning_tokens=self.options.max_tokens)

    def _inputs(self, identity: dict[str, str]) -> dict[str, Any]:
        recipe = self.context.recipe
        writer = {name: value for name, value in identity.items() if name != "server"} if self.writes else {}
        return {
            "writer": writer,
            "data": self.context.data.digest,
            "instruction": recipe.data.instruction,
            "date": recipe.date,
            "seed": recipe.seed,
            "max_seq_length": recipe.max_seq_length,
            "augment": self.options.model_dump(mode="json", exclude=_HOW_FAST),
            "row_ids": row_ids_digest(self.context.data),  # rows of the same texts may stand at other places
        }

    def _identity(self) -> dict[str, str]:
        """R-Gen, wherever it runs."""
        base = self.context.model.files
        named = {"model": base.name, "revision": base.revision or base.fingerprint[:16]}
        adapter = self.context.run.rgen.adapter / adapters.MLX_WEIGHTS
        return named | {"adapter": digest_of_file(adapter)} if adapter.is_file() else named

    def _job(self) -> AugmentationSettings:
        recipe, options = self.context.recipe, self.options
        around = self.question.prompt(ReasoningRequest("", "", "", 0)).message
        sampling = Sampling(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            batch_size=options.batch_size,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
        )
        prompt = digest_of([around, recipe.date, recipe.max_seq_length])
        return AugmentationSettings(
            prompt, sampling, recipe.seed, options.n, options.retries, digest_of(self._identity())
        )

    def _say_what_is_there(self, job: AugmentationJob, journal: Journal) -> int:
        """How much the first attempt has still to write."""
        progress = self.context.progress
        if journal.unreadable:
            progress.warn(f"{journal.unreadable:,} lines of {journal.path} cannot be read; they are written anew.")
        due = job.due(0)
        if len(journal) and (done := (total := job.total()) - due):
            progress.say(f"{done:,} of {total:,} reasonings are written already.")
        if given := sum(row.reasoning is not None for row in self.rows):
            progress.say(f"{given:,} rows have a reasoning of their own ({self.context.recipe.data.reasoning_column}).")
        return due

    # engines

    def _model_with_adapter(self) -> Model:
        """R-Gen, fused; the base model where there is no R-Gen."""
        if self._model is None:
            rgen = self.context.run.rgen
            adapter = adapters.read_adapter(rgen.adapter, self.context.model.files) if rgen.done() else None
            self._model = self.context.model.load(adapter)
            self._model.fuse()
        return self._model

    def _engine(self, identity: dict[str, str], due: int) -> Engine:
        context, length = self.context, self.context.recipe.max_seq_length
        if self.options.engine == "ray":
            from rir_mlx.augmentation.engines.cluster import RayEngine, WorkerSetup

            rgen = adapters.read_adapter(context.run.rgen.adapter, context.model.files)
            setup = WorkerSetup(
                backend=context.recipe.backend,
                model=context.recipe.model,
                revision=context.recipe.revision,
                fingerprint=context.model.files.fingerprint,
                dtype=context.recipe.dtype,
                date=context.recipe.date,
                adapter=(rgen.spec, rgen.tensors),
                question=self.question,
                max_seq_length=length,
            )
            return RayEngine(setup, self.options.workers, identity)
        model = self._model_with_adapter()
        self._say_cost(model, self._job().sampling, due)
        return LocalEngine(model, context.model.codec, self.question, length, identity)

    def _remote_engine(self) -> Engine:
        from rir_mlx.augmentation.engines.server import OpenAIEngine, Server

        options = self.options
        server = Server(options.base_url or "", options.server_model, options.concurrency, options.timeout)
        if server.remote and constants.HF_HUB_OFFLINE:
            raise UserError(f"{server.shown} is not on this machine, and --offline contacts no server.")
        engine = OpenAIEngine(server, self.context.model.codec, self.question, self.context.recipe.max_seq_length)
        if engine.remote:
            plain = "" if server.url.scheme == "https" else ", and so is the key where there is one, unencrypted"
            self.context.progress.warn(f"texts and labels are sent to {server.shown}{plain}.")
        return engine

    def _scorer(self) -> Classifier:
        return Classifier(self._model_with_adapter(), self.context.model.codec, self._scoring_task(), "qra")

    def _say_cost(self, model: Model, sampling: Sampling, due: int) -> None:
        context = self.context
        if not due:
            return
        orders = [ReasoningRequest("", row.text, row.label, 0) for row in self.rows[:_SAMPLE]]
        encoded = context.model.codec.encode_many([self.question.prompt(order) for order in orders], self.room)
        requests = [Request(index, one.row) for index, one in enumerate(encoded)]
        cost = generation_cost(model, requests, encoded[0].prefix, sampling, context.model.files.config)
        times = due / len(requests)
        whole = replace(cost, rows=due, tokens=round(cost.tokens * times), seconds=cost.seconds * times)
        context.progress.say("At most, " + whole.text("augmentation", context.backend.device()))

    # results

    def _write_down(self, job: AugmentationJob, judge: ReasoningFilters) -> dict[str, Any]:
        """The kept rows of each part, the rejected ones, and the statistics, in one pass over the rows."""
        run, progress = self.context.run, self.context.progress
        parts = ("train", "validation")
        tallies = {part: AugmentationSummary() for part in parts}
        sample = ReservoirSample(seed=self.context.recipe.seed)
        paths = [*(run.augmented_rows(part) for part in parts), run.rejected_rows()]
        with ExitStack() as stack:
            *kept, rejected = (
                stack.enter_context(stack.enter_context(replacing(path)).open("w", encoding="utf-8")) for path in paths
            )
            for index, outcome in enumerate(job.outcomes()):
                which = int(index >= self.train)
                part = parts[which]
                tallies[part].add(outcome)
                if outcome.kept is not None:
                    kept[which].write(json.dumps(outcome.kept, ensure_ascii=False) + "\n")
                    if part == "train":
                        sample.add(LabelledReasoning(outcome.kept["label"], outcome.kept["reasoning"]))
                for one in outcome.rejected:
                    line = _place_of(outcome.row) | asdict(one) | {"part": part, "lost": outcome.kept is None}
                    rejected.write(json.dumps(line, ensure_ascii=False) + "\n")
        stats: dict[str, Any] = {part: tally.values() for part, tally in tallies.items()}
        stats["leakage"] = leakage(sample, judge.labels)
        write_json(run.stats(), stats)
        for warning in tallies["train"].warnings():
            progress.warn(warning)
        train = stats["train"]
        progress.say(f"Kept {train['kept']:,} of {train['rows']:,} reasonings → {run.augmented.folder}")
        return stats


def _place_of(row: Row) -> dict[str, Any]:
    return {"id": row.id, "text": row.text, "label": row.label, "file": row.file, "number": row.number}


def _refuse_test_rows(context: Context) -> None:
    """Reasonings for test rows are written with their labels in sight."""
    for part in ("train", "validation"):
        source = getattr(context.recipe.data, part)
        if source is None:
            continue
        file = Path(source.path).stem if Path(source.path).suffix in SUFFIXES else ""
        if _TEST.search(source.split or "") or _TEST.search(file):
            raise UserError(
                f"data.{part} is a test part ({source.split or source.path}). Its reasonings would be written with the "
                "labels in sight, and a classifier trained on them could no longer be measured on it.",
                hint=f"Name another file or split in data.{part}; rename it if it is no test part.",
            )
