"""Between the stages: R-Gen writes a reasoning for every labelled row."""

from __future__ import annotations

from dataclasses import replace

from rir_mlx import adapters, augment
from rir_mlx.backends.base import Model, Request, Sampling
from rir_mlx.errors import UserError
from rir_mlx.estimate import generation_cost
from rir_mlx.prompts import rgen_row_prompt
from rir_mlx.run import digest_of_file, write_json, write_jsonl
from rir_mlx.stages.context import Context, by_the_first, is_due

_SAMPLE = 256
"""Rows that the cost of all of them is estimated from."""


@by_the_first
def augment_rows(context: Context) -> None:
    """R-Gen writes a reasoning for each training and validation row; those that pass the gates are kept."""
    run, recipe = context.run, context.recipe
    if run.rgen.done() is None:
        raise UserError("R-Gen has not been trained in this run.", mend="Run `rir-mlx train-rgen` first.")
    adapter = digest_of_file(run.rgen.adapter / adapters.MLX_WEIGHTS)
    options = recipe.augment
    inputs = {
        "rgen": adapter,
        "data": context.data.digest,
        "instruction": recipe.data.instruction,
        "seed": recipe.seed,
        "max_seq_length": recipe.max_seq_length,
        "augment": options.model_dump(mode="json", exclude={"batch_size"}),
    }
    if not is_due(context, run.augmented, inputs, "augmentation"):
        return
    run.augmented.begin()
    job = augment.Job(
        labels=list(context.data.labels),
        instruction=recipe.data.instruction,
        sampling=Sampling(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            stop=tuple((token,) for token in context.codec.stops),
            batch_size=options.batch_size,
        ),
        seed=recipe.seed,
        adapter=adapter,
        max_seq_length=recipe.max_seq_length,
    )
    model = context.load(adapters.read_adapter(run.rgen.adapter, context.base))
    _say_generation_cost(context, model, job)
    rejected, results = [], {}
    for part, rows in (("train", context.data.train), ("validation", context.data.validation)):
        results[part] = augment.write_reasonings(
            model, context.codec, rows, job, journal=run.journal(), progress=context.progress, what=f"augment {part}"
        )
        kept = [row for row in results[part] if row["rejected"] is None]
        write_jsonl(run.augmented_rows(part), [{k: row[k] for k in ("text", "label", "reasoning")} for row in kept])
        rejected += [row | {"part": part} for row in results[part] if row["rejected"] is not None]
    write_jsonl(run.rejected_rows(), rejected)
    stats = {part: augment.statistics(rows) for part, rows in results.items()}
    write_json(run.stats(), stats)
    run.augmented.finish(inputs, **stats["train"])
    context.progress.say(
        f"Kept {stats['train']['kept']:,} of {stats['train']['rows']:,} reasonings → {run.augmented.folder}"
    )


def _say_generation_cost(context: Context, model: Model, job: augment.Job) -> None:
    rows, codec = context.data.train, context.codec
    limit = job.max_seq_length - job.sampling.max_tokens
    encoded = [
        codec.encode(rgen_row_prompt(row.text, row.label, job.labels, job.instruction), limit) for row in rows[:_SAMPLE]
    ]
    requests = [Request(index, one.row) for index, one in enumerate(encoded)]
    cost = generation_cost(model, requests, encoded[0].head, job.sampling, context.base.config)
    times = len(rows) / len(requests)
    whole = replace(cost, rows=len(rows), tokens=round(cost.tokens * times), seconds=cost.seconds * times)
    context.progress.say("At most, " + whole.text("augmentation", context.backend.device()))
