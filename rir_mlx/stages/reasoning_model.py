"""The model that writes a run's reasonings: R-Gen in this process or on a cluster, or the model of a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants

from rir_mlx.augmentation.engines.base import Engine
from rir_mlx.augmentation.engines.local import LocalEngine, LocalLikelihoods
from rir_mlx.backends.base import Model, Request, Sampling
from rir_mlx.classification.classifier import Classifier
from rir_mlx.data.rows import Row
from rir_mlx.errors import RirError, UserError
from rir_mlx.models import adapters
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.room import rgen_room
from rir_mlx.recipe.builtin import BUILTIN
from rir_mlx.stages.context import NOT_THE_RESULT, Context, training_inputs
from rir_mlx.storage.digests import changes, digest_of, digest_of_file
from rir_mlx.storage.layout import Stage
from rir_mlx.training.cost import generation_cost
from rir_mlx.training.memory import Loaded, Stored

if TYPE_CHECKING:
    from rir_mlx.augmentation.engines.server import OpenAIEngine  # its HTTP library is needed only with a server

_SAMPLE = 256
"""Rows from which the cost of all of them is estimated."""
_OF_THE_GENERATION = "dtype"
"""What R-Gen's training depends on as well, and what an augmentation may change to run the same weights otherwise."""


class ReasoningModel:
    """Opens the engine that the recipe names. R-Gen's weights are loaded at most once."""

    def __init__(self, context: Context) -> None:
        self.context, self.options = context, context.recipe.augment
        self.question = context.question
        self.room = rgen_room(context.recipe.max_seq_length, self.options.max_tokens)
        self.remote = self.options.engine == "openai"
        self.server: OpenAIEngine | None = None
        self._loaded: Model | None = None

    def rgen_identity(self) -> dict[str, str]:
        """R-Gen's base model and adapter, wherever it runs. A folder of one's own is told by its content: it counts
        under the name under which it wrote the run's reasonings, wherever it lies now and however it is spelt."""
        run, files = self.context.run, self.context.model.files
        own = files.revision is None and not files.name.startswith(BUILTIN)
        name = files.folder.resolve().name if own else files.name
        identity = {"model": name, "revision": files.revision or files.fingerprint}
        adapter = run.rgen.adapter / adapters.MLX_WEIGHTS
        identity |= {"adapter": digest_of_file(adapter)} if adapter.is_file() else {}
        inputs = (run.augmented.done() or {"inputs": {}})["inputs"]
        for before in (inputs.get("writer", {}), inputs.get("scorer", {})) if own else ():
            if before == identity | {"model": before.get("model")}:
                return dict(before)
        return identity

    def release(self) -> None:
        """Give R-Gen's weights up."""
        self._loaded = None

    def require_rgen(self) -> None:
        """Raise UserError if R-Gen is to write and has not been trained, or was trained to be asked otherwise."""
        if self.remote:
            return
        if (done := self.context.run.rgen.done()) is None:
            raise UserError(
                "R-Gen has not been trained in this run.",
                hint="Run `rir-mlx train-rgen` with the same recipe and --runs first. (Or let a server's model write: "
                "--engine openai --base-url URL.)",
            )
        trained, wanted = done["inputs"].get("prompt", "steps"), self.context.recipe.reasoning.prompt
        if trained != wanted:
            raise UserError(
                f"R-Gen was trained with reasoning.prompt {trained}, and would be asked by {wanted}.",
                hint=f"Run `rir-mlx train-rgen` again, or set reasoning.prompt={trained}.",
            )
        if done["inputs"].get("examples") != self.context.question_inputs().get("examples"):
            raise UserError(
                "R-Gen was trained with other examples in its prompt than those that it would be shown.",
                hint="Run `rir-mlx train-rgen` again, or set reasoning.examples back.",
            )

    def scoring_task(self) -> ClassificationTask:
        """What the model is asked that chooses among several reasonings of a row."""
        return replace(self.context.task, max_reasoning_tokens=self.options.max_tokens)

    def scorer(self) -> Classifier:
        """Tells how likely a reasoning makes a label."""
        return Classifier(self._rgen(), self.context.model.codec, self.scoring_task(), "qra")

    def chooser(self, stage: Stage) -> Classifier:
        """A trained chooser."""
        adapter = adapters.read_adapter(stage.adapter, self.context.model.files)
        model = self.context.model.load(adapter)
        return Classifier(model, self.context.model.codec, self.scoring_task(), "qra")

    def likelihoods(self) -> LocalLikelihoods:
        """Tells how likely R-Gen finds a reasoning with a text and its label."""
        return LocalLikelihoods(self._rgen(), self.context.model.codec, self.question, self.room)

    def rgen_engine(self, identity: dict[str, str]) -> Engine:
        """R-Gen, on this machine or on a Ray cluster."""
        if self.options.engine == "ray":
            return self._cluster_engine(identity)
        length = self.context.recipe.max_seq_length
        return LocalEngine(self._rgen(), self.context.model.codec, self.question, length, identity)

    def _cluster_engine(self, identity: dict[str, str]) -> Engine:
        from rir_mlx.augmentation.engines.cluster import RayEngine, WorkerSetup

        context, recipe = self.context, self.context.recipe
        adapter = adapters.read_adapter(context.run.rgen.adapter, context.model.files)
        setup = WorkerSetup(
            backend=recipe.backend,
            model=recipe.model,
            revision=recipe.revision,
            fingerprint=context.model.files.fingerprint,
            dtype=recipe.dtype,
            date=recipe.date,
            adapter=(adapter.spec, adapter.tensors),
            question=self.question,
            max_seq_length=recipe.max_seq_length,
        )
        return RayEngine(setup, self.options.workers, identity)

    def server_engine(self) -> Engine:
        """The model of an OpenAI-compatible server.

        Raises NoServer if nobody answers at its address, UserError if only the recipe names it."""
        from rir_mlx.augmentation.engines.address import Server
        from rir_mlx.augmentation.engines.server import OpenAIEngine

        options, context = self.options, self.context
        server = Server(
            options.base_url or "",
            options.server_model,
            options.concurrency,
            options.timeout,
            trusted=context.trusts_server,
            omitted=options.omit_parameters,
        )
        if server.remote and not server.trusted:
            raise UserError(
                f"Only the recipe names the server {server.shown}. Texts, labels and your key would be sent there.",
                hint=f"Give --base-url {server.shown} if you know this server, or --trust-recipe.",
            )
        if server.remote and constants.HF_HUB_OFFLINE:
            raise UserError(f"{server.shown} is not on this machine, and --offline contacts no server.")
        if server.remote:
            unencrypted = "" if server.url.scheme == "https" else ", unencrypted, and so is the key if there is one"
            context.progress.warn(f"Texts and labels are sent to {server.shown}{unencrypted}.")
        length, tell = context.recipe.max_seq_length, context.progress.warn
        self.server = OpenAIEngine(server, context.model.codec, self.question, length, tell)
        return self.server

    def say_cost(self, rows: Sequence[Row], sampling: Sampling, due: int) -> None:
        """Say what `due` reasonings cost at most, estimated from the first rows."""
        if not due or self.options.engine == "ray":
            return
        context, codec = self.context, self.context.model.codec
        prompts = [self.question.of_row(row.text, row.label) for row in rows[:_SAMPLE]]
        encoded = codec.encode_many(prompts, self.room)
        requests = [Request(index, prompt.row) for index, prompt in enumerate(encoded)]
        device, files = context.backend.device(), context.model.files
        loaded = Loaded(self._rgen(), files.config, Stored.of(files.folder, device))
        cost = generation_cost(loaded, requests, encoded[0].prefix, sampling)
        factor = due / len(requests)
        whole = replace(cost, rows=due, tokens=round(cost.tokens * factor), seconds=cost.seconds * factor)
        context.progress.say("At most, " + whole.text("augmentation", device))

    def _rgen(self) -> Model:
        """R-Gen, fused; the base model if there is no R-Gen."""
        if self._loaded is None:
            rgen = self.context.run.rgen
            adapter = adapters.read_adapter(rgen.adapter, self.context.model.files) if rgen.done() else None
            self._loaded = self.context.model.load(adapter)
            self._loaded.fuse()
        return self._loaded


def own_reasonings(context: Context, part: str) -> list[Row]:
    """The part's rows with a reasoning of their own, but those that the prompt shows: R-Gen learns from them."""
    shown = {(example.text, example.label) for example in context.question.examples}
    rows = context.data.train if part == "train" else context.data.held_out
    return [row for row in rows if row.reasoning is not None and (row.text, row.label) not in shown]


def rgen_inputs(context: Context, triples: str) -> dict[str, Any]:
    """What decides R-Gen's weights, with the triples of that hash."""
    options, data = context.recipe.rgen, context.data
    own, held = (
        [[row.text, row.label, row.reasoning] for row in own_reasonings(context, part)]
        for part in ("train", "validation")
    )
    inputs = training_inputs(context) | {
        "triples": triples,
        "rgen": options.model_dump(mode="json", exclude=NOT_THE_RESULT),
    }
    inputs |= context.question_inputs()
    if own or held:
        inputs["own"] = digest_of([own, held, data.labels, context.recipe.data.instruction])
    return inputs


def outdated_rgen(context: Context) -> str | None:
    """What the recipe, the triples or the base model would train R-Gen from that is another now, in a sentence; None if
    nothing is, or there is no R-Gen. Triples that cannot be read any more, or that are on the hub, are taken to be as
    they were."""
    if (done := context.run.rgen.done()) is None:
        return None
    before = {key: value for key, value in done["inputs"].items() if key != _OF_THE_GENERATION}
    try:
        triples = context.data.triples_digest() or before["triples"]
    except RirError:
        triples = before["triples"]
    now = {key: value for key, value in rgen_inputs(context, triples).items() if key != _OF_THE_GENERATION}
    if not (found := changes(before, now)):
        return None
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"R-Gen was trained otherwise than the recipe says now ({found[0]}{more}). "
        "`rir-mlx train-rgen` trains it again, and `rir-mlx augment` then writes the reasonings again."
    )
