"""The command `mcp`: a trained classifier as a tool of programs that speak the Model Context Protocol."""

import io
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from rir_cli.answering.lean_start import start_lean
from rir_cli.answering.serving import RunArgument, served
from rir_cli.context import arm_of, trained_context
from rir_cli.options import ArmOption, BackendOption, OfflineOption, RunsOption, ThresholdOption
from rir_mlx.types import RUNS

if TYPE_CHECKING:  # the protocol is not needed to print help
    from mcp.server.fastmcp import FastMCP

    from rir_mlx.serving.wire import Served
    from rir_mlx.serving.worker import Worker


def mcp(
    run: RunArgument = None,
    arm: ArmOption = None,
    threshold: ThresholdOption = None,
    runs: RunsOption = RUNS,
    backend: BackendOption = None,
    offline: OfflineOption = False,
) -> None:
    """Offer a trained classifier as a tool, `classify`, over stdin and stdout (Model Context Protocol).

    It is started by the program that uses it, which knows it by this command.
    """
    from rir_mlx.errors import UserError, install_extra

    if find_spec("mcp") is None:
        raise UserError("This needs mcp, which this Python does not have.", hint=f"{install_extra('mcp')} installs it.")
    _keep_stdout_for_the_protocol()
    context = trained_context(run, runs, backend, offline=offline, quiet=False)
    start_lean(context.backend.name)
    from rir_mlx.classification import loading
    from rir_mlx.serving.worker import Limits, Worker

    used = arm_of(context, arm)
    worker = Worker(
        lambda: loading.load_classifier(context.run, context.model, used),
        Limits(seconds=600, together=context.recipe.evaluate.batch_size),
    )
    try:
        make_server(worker, served(context, worker.start(), threshold)).run("stdio")
    except KeyboardInterrupt:
        return
    finally:
        worker.stop(30)


def make_server(worker: "Worker", served: "Served") -> "FastMCP":
    """The server with its tool. Annotations are read when it is made, so they stand here as they are."""
    import anyio.to_thread
    from mcp.server.fastmcp import FastMCP
    from mcp.server.fastmcp.tools import Tool
    from mcp.types import ToolAnnotations
    from pydantic import Field, create_model

    from rir_mlx.serving.jobs import Item, Job
    from rir_mlx.serving.wire import ClassifyRequest, ClassifyResponse, Usage, classified
    from rir_mlx.types import ReasonMode

    reads = ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)
    labels, probability = ", ".join(served.single or served.labels), "calibrated probability"
    probability = probability if served.calibrated else f"un{probability}"
    one = "those that hold, of" if served.single else "one of"

    async def classify(
        texts: Annotated[list[str], Field(description="Up to 256 texts.", min_length=1, max_length=256)],
        reason: Annotated[
            ReasonMode, Field(description="Whether to write reasonings. auto: only if the text alone leaves doubt.")
        ] = "always",
    ) -> ClassifyResponse:
        asked = ClassifyRequest(texts=texts, reason=reason)
        job = worker.submit(Job([Item(text, asked.reason) for text in asked.texts]))
        try:
            predictions = await anyio.to_thread.run_sync(job.result, abandon_on_cancel=True)
        finally:
            job.gone = True
        return ClassifyResponse(
            model=served.name,
            calibrated=served.calibrated,
            predictions=[classified(prediction, served, reason) for prediction in predictions],
            usage=Usage(input_tokens=job.prompt_tokens, output_tokens=job.generated_tokens),
        )

    tool = Tool.from_function(
        classify,
        description=f"Label texts with {one}: {labels}. Gives each label's {probability} and, if wanted, the "
        "reasoning that the model wrote. `label` is null where it abstains; a low `mass` says that no label fits. "
        f"The {served.arm} classifier of {served.name}, trained on {served.trained_on}, answers.",
        annotations=reads,
        structured_output=True,
    )
    known = tool.fn_metadata
    known.arg_model = create_model("classify", __base__=known.arg_model, __cls_kwargs__={"extra": "forbid"})
    tool.parameters = known.arg_model.model_json_schema(by_alias=True)  # an unknown argument is refused
    return FastMCP("rir-mlx", log_level="ERROR", tools=[tool])


def _keep_stdout_for_the_protocol() -> None:
    """What a library prints goes to stderr from here on: a line of its own in stdout would break the protocol."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = io.TextIOWrapper(os.fdopen(stdout, "wb"), encoding="utf-8", line_buffering=True)
