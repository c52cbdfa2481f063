"""Between the two trainings: every labelled row gets a reasoning."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from rir_mlx.augmentation.across.filters import FiltersAcrossRows
from rir_mlx.augmentation.engines.base import Engine, ReasoningRequest
from rir_mlx.augmentation.examples import ReasoningExamples, example_lines
from rir_mlx.augmentation.filters import ReasoningFilters
from rir_mlx.augmentation.job import NOT_WRITTEN, AugmentationJob, AugmentationSettings, ResultFlags
from rir_mlx.augmentation.leakage import LabelledReasoning, ReservoirSample, leakage
from rir_mlx.augmentation.summary import AugmentationSummary
from rir_mlx.backends.base import Sampling
from rir_mlx.backends.limits.memory import give_back
from rir_mlx.backends.processes import decide_on_main, is_main, own_places, run_on_main
from rir_mlx.data.loading import refuse_test_rows
from rir_mlx.data.rows import Row
from rir_mlx.errors import NoServer, UserError
from rir_mlx.interrupts import Interrupts
from rir_mlx.models.adapters import weights_digest
from rir_mlx.prompting.prompts import answer_format
from rir_mlx.prompting.room import prompt_room
from rir_mlx.stages.context import Context, exclusive, is_due, training_inputs
from rir_mlx.stages.reasoning_model import ReasoningModel, outdated_rgen
from rir_mlx.stages.training import train_chooser
from rir_mlx.storage.atomic import make_folder, replacing, write_json
from rir_mlx.storage.digests import changes, digest_of
from rir_mlx.storage.journal import Journal, add_ranks_results, open_share, remove_ranks_results, shares_elsewhere
from rir_mlx.storage.layout import OTHER_RUNS

_NOT_THE_TEXT = {"batch_size", "concurrency", "timeout", "workers", "base_url", "server_model", "engine"}
"""Keys that change how reasonings are generated, and not what comes out. `engine` changes the model, which counts."""
_PARTS = ("train", "validation")


@exclusive
def augment_rows(context: Context, limit: int | None = None, *, retry_refused: bool = False) -> dict[str, Any] | None:
    """Write a reasoning for each training and validation row and keep those that pass the filters. Returns the
    statistics, or None if the stage was already done. With a `limit`, only for the first rows; the stage then stays
    unfinished unless these are all. `retry_refused` asks a server again for what it refused or failed on.

    Of several processes, each generates a share of the reasonings; the main one does the rest and returns."""
    processes = context.processes

    def opened() -> _AugmentationStage:
        return _AugmentationStage(context, limit, retry_refused=retry_refused)

    stage = run_on_main(processes, opened) or opened()  # the main process first: it reports the user's mistakes
    if processes.size > 1:
        stage.generate_shares()
    return run_on_main(processes, stage.run)


def exact_prompts(context: Context, count: int) -> Iterator[dict[str, Any]]:
    """The prompts of the first rows as the model gets them: the text with its control tokens, or the message to a
    server, and the length in tokens."""
    stage = _AugmentationStage(context, count)
    model, codec = stage.model, context.model.codec
    for row in stage.rows:
        if row.reasoning is not None:
            continue
        request = ReasoningRequest("", row.text, row.label, 0)
        encoded = codec.encode(model.question.of_row(request.text, request.label), model.room)
        text = codec.decode(encoded.prefix + encoded.row)
        if model.remote:
            from rir_mlx.augmentation.engines.server import fitted_request

            fitted, _ = fitted_request(request, model.question, codec, model.room)
            text = model.question.of_row(fitted.text, fitted.label).message
        length = len(encoded.prefix) + len(encoded.row)
        yield {"text": row.text, "label": row.label, "prompt": text, "tokens": length, "trimmed": encoded.trimmed}


class _AugmentationStage:
    """One call of the stage: the rows, the model that writes for them, and the steps in their order."""

    def __init__(self, context: Context, limit: int | None, *, retry_refused: bool = False) -> None:
        refuse_test_rows(context.recipe.data)
        self.context, self.options, self.retry_refused = context, context.recipe.augment, retry_refused
        self.rows = (context.data.train + context.data.validation)[:limit]
        self.model = ReasoningModel(context)
        self.generates = any(row.reasoning is None for row in self.rows)
        self._journal_begun = False

    def generate_shares(self) -> None:
        """In every process, generate what is due for its share of the rows: the main process into the journal, the
        others into one each, which `run` adds to it. Does nothing if no model of this machine writes, or the stage is
        done."""
        context, processes = self.context, self.context.processes
        if self.options.engine != "local" or not decide_on_main(processes, self._begin_shares):
            return
        rows = self.rows.chosen(own_places(processes, (f"{row.text}\0{row.label}" for row in self.rows)))
        filters, identity = self._filters(), self.model.rgen_identity()
        flags = ResultFlags(filters, self._asked())
        with Interrupts(loud=is_main(processes), first="Finishing the rows in progress") as interrupts:
            with open_share(context.run.journal, processes.rank, flags) as journal:
                job = AugmentationJob(rows, self._settings(), identity, flags, journal)
                if job.is_due():
                    engine = self.model.rgen_engine(identity)
                    job.write(engine, context.progress, lambda: interrupts.asked)
            if processes.all_sum([float(interrupts.asked)])[0]:
                raise KeyboardInterrupt
        if is_main(processes) and (warning := shares_elsewhere(context.run.journal, processes.size)):
            context.progress.warn(warning)

    def _begin_shares(self) -> bool:
        """Whether there is anything to generate; the main process's part before all do their shares."""
        context, folder = self.context, self.context.run.augmented
        if not self.generates:
            return False
        self.model.require_rgen()
        self._check_room()
        if folder.why_not_done(self._inputs(self.model.rgen_identity())) is None and not context.force:
            return False
        context.lock.lock()
        self._begin_journal()
        flags = ResultFlags(self._filters(), self._asked())
        with Journal(context.run.journal, flags) as journal:
            add_ranks_results(journal)
        context.save_recipe()
        folder.begin()
        context.progress.say(f"{context.processes.size} processes generate reasonings, each for its share of the rows.")
        return True

    def run(self) -> dict[str, Any] | None:
        context, folder = self.context, self.context.run
        if self.generates:
            self.model.require_rgen()
        self._check_room()
        engine, identity = self._find_writer()
        inputs = self._inputs(identity)
        uses_rgen = "scorer" in inputs or (self.generates and not self.model.remote)
        if uses_rgen and (outdated := outdated_rgen(context)):
            context.progress.warn(outdated)
        if not is_due(context, folder.augmented, inputs, "augmentation", begins=False):
            return None
        filters = self._filters()
        flags = ResultFlags(filters, self._asked(), retry_refused=self.retry_refused)
        self._begin_journal()
        with (
            Interrupts(loud=True, first="Finishing the rows in progress") as interrupts,
            Journal(folder.journal, flags) as journal,
        ):
            add_ranks_results(journal)
            job = AugmentationJob(self.rows, self._settings(), identity, flags, journal)
            self._generate(job, engine, interrupts)
            across = self._judge_and_choose(job, interrupts)
            stats = write_augmented_rows(context, job, across)
        if len(self.rows) < len(context.data.train) + len(context.data.validation):
            context.progress.say(f"These are the first {len(self.rows):,} rows; run without --limit for the rest.")
        else:
            if any(stats[part]["rejected"].get(reason) for part in _PARTS for reason in NOT_WRITTEN):
                inputs |= {"refused_by": self._asked()}  # another server may not refuse
            else:
                inputs.pop("refused_by", None)
            folder.augmented.finish(inputs, **stats["train"])
        return stats

    def _begin_journal(self) -> None:
        """Make the folder; with --force, put the old journal aside, once."""
        run = self.context.run
        make_folder(run.augmented.folder, OTHER_RUNS)
        if self.context.force and not self._journal_begun:
            remove_ranks_results(run.journal)
            if run.journal.is_file():
                os.replace(run.journal, run.old_journal)
        self._journal_begun = True

    def _filters(self) -> ReasoningFilters:
        question = self.model.question
        names, codec = self.options.filters, self.context.model.codec
        return ReasoningFilters(codec, question.labels, question.instruction, names, several=question.several)

    def _generate(self, job: AugmentationJob, engine: Engine | None, interrupts: Interrupts) -> None:
        """Generate what is due. Raises KeyboardInterrupt if the user stops it: what was generated stays in the
        journal."""
        context = self.context
        self._say_progress(job)
        generates = job.is_due()
        if self.model.server:
            self.model.server.proven = job.due(0) < job.total()
        if generates and engine is None:
            engine = self.model.rgen_engine(dict(job.engine))
            self.model.say_cost(self.rows, job.settings.sampling, job.due(0))
        context.save_recipe()  # from here on the work can only be interrupted and resumed
        context.run.augmented.begin()
        if generates and engine:
            try:
                job.write(engine, context.progress, lambda: interrupts.asked)
            finally:
                engine.close()
        if interrupts.asked:
            raise KeyboardInterrupt

    def _judge_and_choose(self, job: AugmentationJob, interrupts: Interrupts) -> FiltersAcrossRows:
        """Apply the filters that look across rows, then choose among several reasonings of a row. Raises
        KeyboardInterrupt like `_generate`."""
        context, options = self.context, self.options
        validation = range(len(context.data.train), len(self.rows))
        sampled = 0 if self.model.remote else context.informed_rows  # there may be no R-Gen where a server writes
        scorer = digest_of(self.model.rgen_identity())
        across = FiltersAcrossRows(job, validation, options.ungrounded_at_most, scorer, sampled)
        across.read()
        if across.due():
            across.score(self.model.likelihoods(), context.progress, lambda: interrupts.asked)
        if not interrupts.asked:
            across.measure()
            job.across = across
            self._choose(job, interrupts)
        if interrupts.asked:
            raise KeyboardInterrupt
        return across

    def _choose(self, job: AugmentationJob, interrupts: Interrupts) -> None:
        """Choose among several reasonings of a row, for `useful` by classifiers that have not seen its label: each
        learns one half of the training rows with their first reasonings, and scores the other. The halves are told by
        the texts, so that equal texts are in one."""
        context, size = self.context, self.options.batch_size
        if self.options.choose == "useful" and self.options.n > 1:
            self.model.release()
            train = [replace(row, reasoning=job.first_choice(row)) for row in self.rows[: len(context.data.train)]]
            mine = [[row for row in train if row.reasoning and _half(row) == half] for half in (0, 1)]
            if not all(mine):
                raise UserError(
                    "augment.choose useful needs kept reasonings of more texts.", hint="Set augment.choose=likeliest."
                )
            halves = [train_chooser(context, half, rows) for half, rows in enumerate(mine)]
            job.scorer = digest_of(["useful", [weights_digest(stage) for stage in halves]])
            for half, stage in enumerate(halves):
                others = [row for row in self.rows if _half(row) != half]
                if job.choices_due(others) and not interrupts.asked:
                    scorer = self.model.chooser(stage)
                    job.choose(scorer, context.progress, batch_size=size, stopped=lambda: interrupts.asked, rows=others)
        elif job.choices_due():
            job.choose(self.model.scorer(), context.progress, batch_size=size, stopped=lambda: interrupts.asked)

    def _find_writer(self) -> tuple[Engine | None, dict[str, str]]:
        """The server's engine, if a server writes, and the identity of the model that writes."""
        if not (self.model.remote and self.generates):
            return None, self.model.rgen_identity()
        try:
            engine = self.model.server_engine()
        except NoServer:
            if (identity := self._server_model_when_done()) is None:
                raise
            return None, identity
        return engine, engine.identity()

    def _server_model_when_done(self) -> dict[str, str] | None:
        """The server's model with which the stage was done, if everything else is as it was: a finished stage needs no
        server to say which model it has."""
        done = self.context.run.augmented.done()
        writer: dict[str, str] = done["inputs"]["writer"] if done else {}
        if done is None or self.context.force or writer.get("engine") != "openai":
            return None
        return None if changes(done["inputs"], self._inputs(writer)) else writer

    def _check_room(self) -> None:
        """The model that chooses reads the classifier's prompt. Raises UserError if that leaves no room for a text:
        better now than after hours of generation."""
        if self.options.n > 1 and self.options.choose == "useful" and self.context.processes.size > 1:
            raise UserError(
                "augment.choose useful trains its choosers in one process.",
                hint="Run `rir-mlx augment` once without the launcher; the other stages may use it.",
            )
        if self.options.n > 1:
            task, codec = self.model.scoring_task(), self.context.model.codec
            prompt = task.prompt("", answer_format("qra"))
            codec.encode(prompt, prompt_room(codec, task, "qra", reasoning=True))

    def _inputs(self, identity: dict[str, str]) -> dict[str, Any]:
        recipe = self.context.recipe
        writer = {name: value for name, value in identity.items() if name != "server"} if self.generates else {}
        augment = self.options.model_dump(mode="json", exclude=_NOT_THE_TEXT)
        if not self.options.omit_parameters:
            del augment["omit_parameters"]
        inputs = {
            "writer": writer,
            "data": self.context.data.digest,
            "instruction": recipe.data.instruction,
            "date": recipe.date,
            "seed": recipe.seed,
            "max_seq_length": recipe.max_seq_length,
            "augment": augment,
            "row_ids": self.context.data.row_ids_digest(),  # the same texts may stand at other places
        }
        inputs |= self._judges()
        inputs |= self.context.question_inputs()
        done = self.context.run.augmented.done()
        if done and "refused_by" in done["inputs"]:
            inputs["refused_by"] = "asked again" if self.retry_refused else self._asked()
        return inputs

    def _judges(self) -> dict[str, Any]:
        """The models of this machine that filter or choose reasonings, as far as the writer does not say it: R-Gen
        where a server writes, and the classifiers that choose useful reasonings."""
        options, found, remote = self.options, dict[str, Any](), self.model.remote and self.generates
        useful = options.n > 1 and options.choose == "useful"
        if useful:
            found["chooser"] = self.context.recipe.classifier.model_dump(mode="json", exclude={"arms", "seeds"})
        if useful and remote:
            found["chooser"]["trained"] = training_inputs(self.context)
        if remote and ("uninformative" in options.filters or (options.n > 1 and options.choose == "likeliest")):
            found["scorer"] = self.model.rgen_identity()
        return found

    def _asked(self) -> str:
        """The server, and what is asked of it besides the row, the model and the sampling. A request that took too long
        is sent again with more time."""
        asked = [self.options.base_url, list(self.options.omit_parameters), self.options.timeout]
        return digest_of(asked) if self.model.remote else ""

    def _settings(self) -> AugmentationSettings:
        recipe, options = self.context.recipe, self.options
        around_the_text = self.model.question.of_row("", "").message
        sampling = Sampling(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            batch_size=options.batch_size,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
        )
        prompt = digest_of([around_the_text, recipe.date, recipe.max_seq_length])
        scorer = digest_of(self.model.rgen_identity()) if options.choose != "first" else None
        return AugmentationSettings(prompt, sampling, recipe.seed, options.n, options.retries, scorer)

    def _say_progress(self, job: AugmentationJob) -> None:
        """Say what an earlier call has already written, and what the user gave."""
        progress, journal = self.context.progress, job.journal
        if journal.unreadable:
            progress.warn(
                f"{journal.unreadable:,} lines of {journal.path} cannot be read; their reasonings are generated again."
            )
        if len(journal) and (done := (total := job.total()) - job.due(0)):
            progress.say(f"{done:,} of {total:,} reasonings are already written.")
        if given := sum(row.reasoning is not None for row in self.rows):
            progress.say(f"{given:,} rows have a reasoning of their own ({self.context.recipe.data.reasoning_column}).")


def write_augmented_rows(context: Context, job: AugmentationJob, across: FiltersAcrossRows) -> dict[str, Any]:
    """Write the kept rows of each part, the rejected ones and the statistics, in one pass over the rows."""
    run, train_rows = context.run, len(context.data.train)
    summaries = {part: AugmentationSummary(job.filters.labels.own) for part in _PARTS}
    sample, examples = ReservoirSample(seed=context.recipe.seed), ReasoningExamples(context.recipe.seed)
    paths = [*(run.augmented_rows(part) for part in _PARTS), run.rejected_rows]
    with ExitStack() as stack:
        *kept, rejected = (
            stack.enter_context(stack.enter_context(replacing(path)).open("w", encoding="utf-8")) for path in paths
        )
        for index, outcome in enumerate(job.outcomes()):
            place = int(index >= train_rows)
            part = _PARTS[place]
            summaries[part].add(outcome)
            across.count(outcome)
            examples.add(outcome)
            if outcome.kept is not None:
                kept[place].write(json.dumps(outcome.kept, ensure_ascii=False) + "\n")
                if part == "train":
                    sample.add(LabelledReasoning(outcome.kept["label"], outcome.kept["reasoning"]))
            for candidate in outcome.rejected:
                record = _place_of(outcome.row) | asdict(candidate) | {"part": part, "lost": outcome.kept is None}
                rejected.write(json.dumps(record, ensure_ascii=False) + "\n")
    stats: dict[str, Any] = {part: summary.values() for part, summary in summaries.items()}
    give_back()  # the leakage takes another 150 MB, mostly for scikit-learn
    stats |= {"leakage": leakage(sample, job.filters.labels), "examples": examples.values()} | across.values()
    write_json(run.stats, stats)
    for line in example_lines(stats["examples"]):
        context.progress.say(line)
    for line in across.lines():
        context.progress.say(line)
    for warning in summaries["train"].warnings():
        context.progress.warn(warning)
    train = stats["train"]
    count = f"{train['kept']:,} of {train['rows']:,} training rows have a reasoning"
    why = ", ".join(f"{reason} {times:,}" for reason, times in train["rejected"].items())
    context.progress.say(f"{count}{f' (rejected: {why})' if why else ''} → {run.augmented.folder}")
    return stats


def _half(row: Row) -> int:
    """Which half of the rows a row is in."""
    return zlib.crc32(row.text.encode("utf-8", "replace")) % 2


def _place_of(row: Row) -> dict[str, Any]:
    return {"id": row.id, "text": row.text, "label": row.label, "file": row.file, "number": row.number}
