"""Spreads requests over a Ray cluster with Ray Data, one model per worker.

The driver feeds shards of requests into a queue, two for each worker. A task on the driver's node turns the queue into
Ray Data's stream, and a pool of actors generates. A shard goes in and comes out as one row and one object: a worker
that dies repeats whole shards, and nobody sees half a shard. Only functions import Ray.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from rir_mlx import errors
from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.engines.cluster_room import (
    DEATHS,
    PATIENCE,
    Attempts,
    RoomWatch,
    share_of_a_worker,
    workers_that_fit,
)
from rir_mlx.augmentation.engines.local import LocalEngine
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import Failure, ModelError, RirError, UserError, install_extra
from rir_mlx.models.adapter_spec import AdapterSpec, Tensors
from rir_mlx.models.hub import resolve_model
from rir_mlx.progress import counted
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import LabelQuestion
from rir_mlx.types import BackendName, Dtype

if TYPE_CHECKING:
    import pyarrow


LOOPBACK = "127.0.0.1"
_BATCHES = 4
"""Model batches per shard: rows can enter as others leave, and a worker that dies loses one shard."""

_AHEAD = 2
"""Shards per worker: the one in progress and one that waits."""

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class WorkerSetup:
    """What each worker loads. `model` is a folder that every node sees under this name, or a hub id that each node
    resolves for itself; where `fingerprint` is given, a node that finds other weights there raises ModelError."""

    model: str
    date: str
    question: LabelQuestion
    max_seq_length: int
    backend: BackendName = "auto"
    revision: str | None = None
    fingerprint: str = ""
    dtype: Dtype = "auto"
    adapter: tuple[AdapterSpec, Tensors] | None = None

    def load(self) -> LocalEngine:
        """Raises ModelError if this node has no such model, UserError if it lacks the backend."""
        backend = open_backend(self.backend)
        files = resolve_model(self.model, self.revision)
        if self.fingerprint and files.fingerprint != self.fingerprint:
            raise ModelError(
                f"A node of the cluster holds {self.model} with other weights ({files.fingerprint}).",
                hint="Give every node the same folder, or name a hub id and its revision.",
            )
        model = backend.load(files.folder, dtype=self.dtype, adapter=self.adapter)
        if self.adapter:
            model.fuse()
        return LocalEngine(model, Codec(files.folder, self.date), self.question, self.max_seq_length, {})


class RayEngine:
    """R-Gen on `workers` workers of the cluster at RAY_ADDRESS, or of one that it starts on this machine's loopback
    and stops in `close`. `identity` names the model, its revision and its adapter.

    Each worker has a GPU if the cluster has GPUs, else an equal share of the processors. Every `write` loads the models
    again. Raises UserError if Ray is missing or the cluster cannot hold that many workers."""

    def __init__(self, setup: WorkerSetup, workers: int, identity: dict[str, str]) -> None:
        self.setup, self.workers, self._identity = setup, workers, identity
        self.patience, self.deaths = PATIENCE, DEATHS
        self._open = _connect()
        try:
            self._share = share_of_a_worker(_node_resources(), workers)
        except BaseException:
            self.close()
            raise

    def identity(self) -> dict[str, str]:
        return self._identity

    def write(self, requests: Iterable[ReasoningRequest], sampling: Sampling) -> Iterator[GeneratedReasoning]:
        """Each request once, a shard at a time. At most three shards per worker are taken ahead. The worker of a node
        that is gone starts again on another that has room for it.

        Raises a worker's RirError, and Failure if workers keep dying of a shard or of the model, or if the cluster's
        nodes have no room for all workers any more: a shard would wait for a worker that never comes back."""
        import ray
        from ray.util.queue import Queue

        shards = _shards(iter(requests), self.workers, _BATCHES * sampling.batch_size)
        ahead = list(islice(shards, _AHEAD * self.workers))
        if not ahead:
            return
        beside = {"num_cpus": 0, "scheduling_strategy": _here()}
        queue, attempts = Queue(actor_options=beside), ray.remote(Attempts).options(**beside).remote(self.deaths)
        outstanding: set[str] = set()  # of the few shards under way: what is not in it has been handed out

        def feed(shard: list[ReasoningRequest] | None) -> None:
            outstanding.update(request.key for request in shard or ())
            queue.put(None if shard is None else json.dumps([astuple(request) for request in shard]))

        def close() -> None:
            with suppress(ray.exceptions.RayError):
                queue.shutdown(force=True)
            with suppress(ray.exceptions.RayError):
                ray.kill(attempts)

        results = self._results(queue, attempts, sampling)
        watch = RoomWatch(
            lambda: workers_that_fit(_node_resources(), self._share), self.workers, close, patience=self.patience
        )
        try:
            watch.start()
            for shard in ahead:
                feed(shard)
            open_ended = True
            for result in results:
                if open_ended:
                    following = next(shards, None)
                    feed(following)
                    open_ended = following is not None
                for written in result:
                    if written.key in outstanding:
                        outstanding.remove(written.key)
                        yield written
            if outstanding:
                raise Failure(f"The Ray cluster lost {len(outstanding)} requests.", hint="Run the command again.")
        except ray.exceptions.RayError as error:
            if watch.left is not None:
                raise self._too_small(watch.left) from error
            raise Failure(f"The Ray cluster failed: {_reason(error)}", hint="Run the command again.") from error
        finally:
            watch.stop()
            results.close()
            close()

    def _too_small(self, left: int) -> Failure:
        """The error for a cluster that has lost nodes."""
        again = f"Run it again with -s augment.workers={left}, or add nodes" if left else "Add nodes and run it again"
        return Failure(
            f"The Ray cluster has had room for {left} of {self.workers} workers for {self.patience:.0f} s.",
            hint=f"{again}. What was written is kept.",
        )

    def _results(
        self, queue: Any, attempts: Any, sampling: Sampling
    ) -> Generator[list[GeneratedReasoning], None, None]:
        """One Ray Data pipeline from the queue to the results, shard by shard, in no particular order."""
        import ray
        from ray.data import ActorPoolStrategy
        from ray.util.annotations import RayDeprecationWarning

        source = ray.data.from_items([0], override_num_blocks=1)
        _set_up_execution(source.context)
        # A restarted taker would take other shards, so it is never restarted and runs on the driver's node.
        taking = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": _here()}
        # A worker whose node is gone is asked again until another node has room: `Attempts` ends what kills workers.
        writing = self._share | {"max_restarts": -1, "max_task_retries": -1}
        with warnings.catch_warnings():  # options of Ray's tasks and actors that Ray Data passes on until 2.64
            warnings.simplefilter("ignore", RayDeprecationWarning)
            written = source.map_batches(_take, batch_size=1, fn_kwargs={"queue": queue}, **taking).map_batches(
                _Writer,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_kwargs={"setup": ray.put(self.setup), "sampling": sampling, "attempts": attempts},
                compute=ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=_AHEAD),
                runtime_env={"env_vars": {name: os.environ[name] for name in _PASSED_ON if name in os.environ}},
                **writing,
            )
        for batch in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for packed in batch[_COLUMN].to_pylist():
                yield _unpacked(packed)

    def close(self) -> None:
        self._open.close()


_COLUMN = "shard"
Result = TypeVar("Result")


def _table(shards: list[str]) -> pyarrow.Table:
    import pyarrow

    return pyarrow.table({_COLUMN: pyarrow.array(shards, pyarrow.large_string())})


def _packed(result: list[GeneratedReasoning] | RirError) -> str:
    if isinstance(result, RirError):
        return json.dumps({"error": type(result).__name__, "what": result.what, "hint": result.hint})
    return json.dumps([astuple(written) for written in result])


def _unpacked(packed: str) -> list[GeneratedReasoning]:
    """A worker's results. Raises its RirError."""
    result = json.loads(packed)
    if isinstance(result, dict):
        raise getattr(errors, result["error"], Failure)(result["what"], hint=result["hint"])
    return [GeneratedReasoning(*written) for written in result]


def _take(_: object, queue: Any) -> Iterator[pyarrow.Table]:
    """The queue's shards until its end, each as a row."""
    while (shard := queue.get()) is not None:
        yield _table([shard])


class _Writer:
    """A worker: the model, loaded once. It returns an RirError as a result, so that the driver gets it unchanged."""

    def __init__(self, setup: Any, sampling: Sampling, attempts: Any) -> None:
        import ray

        self.sampling, self.attempts = sampling, attempts
        name = f"model {ray.get_runtime_context().get_actor_id()}"  # a restarted worker's is the same
        self.engine = self._attempt(lambda: ray.get(setup).load(), name=name, what="while they loaded the model")
        if not isinstance(self.engine, RirError):  # a shard is begun again only if a worker died before it was returned
            ray.get(attempts.end.remote(name))

    def __call__(self, shards: pyarrow.Table) -> pyarrow.Table:
        shard = [
            [ReasoningRequest(*request) for request in json.loads(packed)] for packed in shards[_COLUMN].to_pylist()
        ]
        return _table([_packed(self._write(requests)) for requests in shard])

    def _write(self, requests: list[ReasoningRequest]) -> list[GeneratedReasoning] | RirError:
        engine = self.engine
        if isinstance(engine, RirError):
            return engine
        return self._attempt(
            lambda: list(engine.write(requests, self.sampling)),
            name=f"shard {requests[0].key}",
            what=f"on the same {counted(len(requests), 'row')}, from {requests[0].text[:40]!r} on",
        )

    def _attempt(self, work: Callable[[], Result], *, name: str, what: str) -> Result | RirError:
        """What the work gives. An error where it raises one, or where workers keep dying of it."""
        import ray

        if died := ray.get(self.attempts.begin.remote(name)):
            return Failure(
                f"{died} workers of the Ray cluster died {what}.",
                hint="Ray's logs say why. A smaller augment.batch_size needs less memory. What was written is kept.",
            )
        found: Result | RirError
        try:
            found = work()
        except RirError as error:
            found = error
        except Exception as error:  # Ray would report that a block failed, but not why
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = Failure(f"A worker failed at {where.name}: {type(error).__name__}: {error}")
        return found


def _shards(requests: Iterator[ReasoningRequest], workers: int, rows: int) -> Iterator[list[ReasoningRequest]]:
    """Requests in shards of at most `rows`. The last ones are split evenly, so that no worker is idle."""
    while stretch := list(islice(requests, workers * rows)):
        size = -(-len(stretch) // workers)
        for start in range(0, len(stretch), size):
            yield stretch[start : start + size]


def _set_up_execution(context: Any) -> None:
    """The options of one pipeline: a copy of Ray Data's."""
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # each row becomes a block at once
    context.execution_no_progress_timeout_s = -1  # a shard may take any time
    context.issue_detectors_config.detectors = []


def _connect() -> ExitStack:
    """Join the cluster that this process already belongs to, or the one at RAY_ADDRESS, or start one. Closing the stack
    undoes it. Raises UserError if Ray is missing or the address does not answer."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed.", hint=f"{install_extra('ray')} installs it.") from error

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised
    if ray.is_initialized():
        return ExitStack()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as undo, _kept_signals():
        undo.enter_context(_complaints_on_stderr())
        undo.callback(ray.shutdown)
        if address := os.environ.get("RAY_ADDRESS"):
            try:
                ray.init(address=address, **quiet)
            except (OSError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"No Ray cluster answers at {address}: {error}", hint="Correct or unset RAY_ADDRESS."
                ) from error
        else:
            _start_on_loopback(quiet)
        return undo.pop_all()


@contextmanager
def _complaints_on_stderr() -> Iterator[None]:
    """Ray reports dead workers on stdout, which is for data only."""
    from ray._private import worker

    show = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, *rest, **named: show(data | {"is_err": True}, *rest, **named)
    try:
        yield
    finally:
        worker.print_to_stdstream = show


def _start_on_loopback(quiet: Mapping[str, Any]) -> None:
    """Given 127.0.0.1, Ray substitutes the machine's own address and listens on every interface, unless it believes
    that the system has no clusters."""
    import ray
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(address="local", include_dashboard=False, _node_ip_address=LOOPBACK, **quiet)
    except (OSError, RuntimeError) as error:
        raise Failure(f"Ray could not be started: {error}", hint="Its logs are under /tmp/ray.") from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if addresses != {LOOPBACK}:
        raise Failure(
            f"Ray {ray.__version__} would listen on {', '.join(sorted(addresses))}, not on {LOOPBACK} alone.",
            hint="Start a cluster with `ray start` and name it in RAY_ADDRESS.",
        )


@contextmanager
def _kept_signals() -> Iterator[None]:
    """ray.init replaces the process's SIGTERM handler with its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _node_resources() -> list[Mapping[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _here() -> Any:
    """The driver's node: a task placed there is lost only with the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _reason(error: BaseException) -> str:
    """The root cause of Ray's error, in one line."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
