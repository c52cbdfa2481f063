"""A local Ray of two workers against the engine in this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import make_tiny_llama

from rir_mlx.augmentation.engines.base import ReasoningRequest
from rir_mlx.augmentation.engines.cluster import LOOPBACK, RayEngine, WorkerSetup
from rir_mlx.augmentation.engines.cluster_room import DEATHS, Attempts, RoomWatch, share_of_a_worker, workers_that_fit
from rir_mlx.backends import open_backend
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import Failure, ModelError, UserError, install_extra
from rir_mlx.models.adapter_spec import AdapterSpec
from rir_mlx.prompting.prompts import LabelQuestion

if not all(find_spec(name) for name in ("ray", "pyarrow", "torch", "peft")):
    pytest.skip("Ray, PyTorch or PEFT is not installed", allow_module_level=True)
heavy = pytest.mark.heavy

SAMPLING = Sampling(max_tokens=24, temperature=1.0, batch_size=2)
SHARD = 4 * SAMPLING.batch_size
"""Requests of a shard; at most three shards a worker are taken ahead."""


@dataclass(frozen=True)
class Cluster:
    """An engine on two workers, and the signal handlers that were there before it and stayed behind it."""

    engine: RayEngine
    before: list[Any]
    after: list[Any]

    def on(self, setup: WorkerSetup, workers: int = 2) -> RayEngine:
        return RayEngine(setup, workers, {})


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> WorkerSetup:
    folder = make_tiny_llama(tmp_path_factory.mktemp("ray") / "tiny")
    spec = AdapterSpec(rank=4)
    model = open_backend("torch").load(folder, dtype="float32")
    model.add_adapter(spec, seed=0)
    rng = np.random.default_rng(0)
    tensors = {
        name: (tensor + rng.normal(0, 0.1, tensor.shape)).astype(np.float32)
        for name, tensor in sorted(model.trained_tensors().items())
    }
    return WorkerSetup(
        model=str(folder),
        date="26 Jul 2024",
        question=LabelQuestion(("joy", "anger"), "Which label fits the text?"),
        max_seq_length=512,
        backend="torch",
        dtype="float32",
        adapter=(spec, tensors),
    )


@pytest.fixture(scope="module")
def cluster(setup: WorkerSetup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray keeps its clusters' token
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "1")
        patch.setenv("RAY_worker_niceness", "0")  # 15 is the default: beside busy processes workers stand still
        patch.delenv("RAY_ADDRESS", raising=False)
        before = _handlers()
        engine = RayEngine(setup, 2, {"model": "tiny"})
        yield Cluster(engine, before, _handlers())
        engine.close()


def _asked(question: Callable[[Any], Any]) -> list[Any]:
    """What each process of this one's cluster answers, and this one; those that end meanwhile do not."""
    import ray  # noqa: F401  (psutil comes with it)

    psutil = pytest.importorskip("psutil")
    me = psutil.Process()
    answers = []
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            answers.append(question(process))
    return answers


def _killed_if_busy(process: Any) -> int:
    """SIGKILL to a worker that has a shard in hand: one that stands still cannot hand it in meanwhile. Its process
    id, or 0."""
    if "_Writer" not in process.cmdline()[0]:
        return 0
    process.suspend()
    if ".submit" in process.cmdline()[0]:
        process.kill()
        return int(process.pid)
    process.resume()
    return 0


class EndlessRequests:
    """Requests without an end, until they are stopped; those that were taken."""

    def __init__(self) -> None:
        self.taken: list[ReasoningRequest] = []
        self.stopped = False

    def __iter__(self) -> Iterator[ReasoningRequest]:
        for index in count():
            if self.stopped:
                return
            text = "i feel happy today because my friend came home " * (index % 4 + 1)
            self.taken.append(ReasoningRequest(f"row-{index}", text, "joy", index * 7919))
            yield self.taken[-1]


@heavy
def test_two_workers_write_what_one_process_writes_through_an_interrupt_and_a_kill(
    cluster: Cluster, setup: WorkerSetup, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C reaches every process of the terminal, and the driver decides when to stop; a worker that is killed loses
    and repeats no request. Requests are taken a few ahead, those that were taken are finished, and stdout stays
    clean."""
    requests = EndlessRequests()
    results = cluster.engine.write(iter(requests), SAMPLING)
    written = [next(results)]
    interrupted = _asked(lambda process: "_Writer" in process.cmdline()[0] and not process.send_signal(signal.SIGINT))
    assert sum(interrupted) == 2
    killed = next(filter(None, (pid for _ in range(2000) for pid in _asked(_killed_if_busy))))
    while len(written) < 60:
        written.append(next(results))
    assert len(requests.taken) <= len(written) + 3 * 2 * SHARD
    requests.stopped = True
    written += results
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "A worker died or was killed" in printed.err
    assert killed not in _asked(lambda process: process.pid)
    assert len(written) == len(requests.taken)
    alone = {result.key: result for result in setup.load().write(requests.taken, SAMPLING)}
    assert {result.key: result for result in written} == alone
    assert len({result.text for result in written}) > 40


@heavy
def test_a_model_that_cannot_be_loaded_is_named_as_on_one_machine_and_frees_the_workers(
    cluster: Cluster, setup: WorkerSetup, tmp_path: Path
) -> None:
    import ray

    folder = make_tiny_llama(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    broken = replace(setup, model=str(folder), backend="fake", adapter=None)
    with pytest.raises(ModelError) as here:
        broken.load()
    with pytest.raises(ModelError) as there:
        list(cluster.on(broken).write(iter([ReasoningRequest("row", "i was sad", "anger", 0)]), SAMPLING))
    assert str(there.value) == str(here.value)
    assert there.value.exit_code == here.value.exit_code == 2
    for _ in range(100):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return
        time.sleep(0.1)
    pytest.fail(f"The workers keep their processors: {ray.available_resources()} are free.")


@heavy
def test_a_cluster_that_has_no_room_for_its_workers_any_more_ends_the_job_with_an_error(
    cluster: Cluster, setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the death of a node, whose worker Ray would wait for."""
    engine, requests = cluster.on(setup), EndlessRequests()
    engine.patience = 1.0
    monkeypatch.setattr("rir_mlx.augmentation.engines.cluster._node_resources", list)
    with pytest.raises(Failure, match="had room for 0 of 2 workers"):
        for _ in engine.write(iter(requests), SAMPLING):
            pass
    monkeypatch.undo()
    requests.stopped = True


@heavy
def test_workers_that_keep_dying_of_the_same_thing_end_the_job_with_an_error_that_names_it(
    cluster: Cluster, setup: WorkerSetup
) -> None:
    """Ray restarts a worker that dies while it loads the model for ever."""

    class Deadly(WorkerSetup):
        def load(self) -> Any:
            os._exit(1)

    requests, quick = [ReasoningRequest("row", "i was sad", "anger", 0)], replace(setup, backend="fake", adapter=None)
    engine = cluster.on(Deadly(**vars(quick)), workers=1)
    engine.deaths = 1
    with pytest.raises(Failure, match="2 workers of the Ray cluster died while they loaded the model"):
        list(engine.write(iter(requests), SAMPLING))


@heavy
def test_rows_that_kill_every_worker_end_the_job_with_an_error_that_names_them(
    cluster: Cluster, setup: WorkerSetup
) -> None:
    class Deadly(WorkerSetup):
        def load(self) -> Any:
            engine = super().load()
            write = engine.write

            def deadly(requests: Any, sampling: Any) -> Any:
                if any(request.key == "last" for request in requests):
                    os._exit(1)
                return write(requests, sampling)

            engine.write = deadly
            return engine

    requests = [ReasoningRequest(key, f"i was sad {key}", "anger", 0) for key in ("first", "last")]
    quick = replace(setup, backend="fake", adapter=None)  # each worker that starts imports its framework
    engine, written = cluster.on(Deadly(**vars(quick)), workers=2), list[str]()
    engine.deaths = 1
    with pytest.raises(Failure, match="2 workers of the Ray cluster died on the same 1 row, from 'i was"):
        written.extend(found.key for found in engine.write(iter(requests), SAMPLING))
    assert written in (["first"], [])


@heavy
def test_the_worker_of_a_node_that_is_killed_starts_again_on_a_spare_one() -> None:
    """Ray's retries ran out on the dead node's address before it knew that the node was gone."""
    command = [sys.executable, "-m", "benchmarks.trouble.nodes", "--spare", "--requests", "60", "--backend", "fake"]
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "tests"), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=500)
    assert "60 of 60 reasonings, each once, equal to those of one process" in done.stdout, done.stdout + done.stderr


@heavy
def test_no_process_of_the_cluster_counts_its_use(cluster: Cluster) -> None:
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
    servers = ("gcs_server", "raylet", "dashboard.py", "monitor.py", "log_monitor.py")
    switches = _asked(
        lambda process: (
            process.environ().get("RAY_USAGE_STATS_ENABLED")
            if any(part.endswith(servers) for part in process.cmdline()[:3])
            else None
        )
    )
    assert [switch for switch in switches if switch] == ["0"] * len(servers)


@heavy
def test_the_cluster_listens_on_the_loopback_alone(cluster: Cluster) -> None:
    """Ray turns `_node_ip_address="127.0.0.1"` into the machine's own address, and then listens on all of them."""
    connections = chain.from_iterable(_asked(lambda process: process.net_connections(kind="inet")))
    listening = [found.laddr.ip.removeprefix("::ffff:") for found in connections if found.status == "LISTEN"]
    assert len(listening) > 3
    assert set(listening) == {LOOPBACK}


@heavy
def test_signals_are_handled_as_before(cluster: Cluster) -> None:
    assert cluster.after == cluster.before


@heavy
def test_more_workers_than_the_cluster_holds_are_refused(cluster: Cluster, setup: WorkerSetup) -> None:
    with pytest.raises(UserError, match="9999 workers do not fit into the Ray cluster"):
        cluster.on(setup, workers=9999)


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ([{"CPU": 8}], 2, {"num_cpus": 4}),
        ([{"CPU": 5}, {"CPU": 5}, {"CPU": 5}], 4, {"num_cpus": 2}),
        ([{"CPU": 7}, {"CPU": 1}], 8, {"num_cpus": 1}),
        ([{"CPU": 64, "GPU": 4}, {"CPU": 8}], 4, {"num_cpus": 0, "num_gpus": 1}),
    ],
)
def test_a_worker_gets_what_all_of_them_can_have(
    nodes: list[dict[str, float]], workers: int, share: dict[str, int]
) -> None:
    assert share_of_a_worker(nodes, workers) == share


@pytest.mark.parametrize(
    ("nodes", "workers", "room"),
    [([{"CPU": 2}], 3, "a processor, and it has 2"), ([{"CPU": 9, "GPU": 1}], 2, "a GPU, and it has 1"), ([], 1, "0")],
)
def test_workers_without_a_place_are_refused(nodes: list[dict[str, float]], workers: int, room: str) -> None:
    with pytest.raises(UserError, match=room):
        share_of_a_worker(nodes, workers)


@pytest.mark.parametrize(
    ("nodes", "share", "fitting"),
    [
        ([{"CPU": 8}, {"CPU": 3}], {"num_cpus": 4}, 2),
        ([{"CPU": 3}], {"num_cpus": 4}, 0),
        ([{"CPU": 64, "GPU": 4}, {"CPU": 8}], {"num_cpus": 0, "num_gpus": 1}, 4),
        ([], {"num_cpus": 1}, 0),
    ],
)
def test_the_nodes_that_are_left_tell_how_many_workers_fit(
    nodes: list[dict[str, float]], share: dict[str, int], fitting: int
) -> None:
    assert workers_that_fit(nodes, share) == fitting


def test_a_cluster_that_loses_its_room_for_good_is_given_up_and_one_that_gets_it_back_is_not() -> None:
    """A job waited for ever for the worker of a node that was gone."""
    gone = threading.Event()
    lost = RoomWatch(lambda: 1, 2, gone.set, patience=0.02, every=0.001)
    lost.start()
    assert gone.wait(10)
    lost.stop()
    assert lost.left == 1
    room, seen = chain([2, 1, 1], repeat(2)), list[int]()

    def fitting() -> int:
        seen.append(next(room))
        return seen[-1]

    back = RoomWatch(fitting, 2, lambda: pytest.fail("was given up"), patience=5, every=0.001)
    back.start()
    while len(seen) < 6:
        time.sleep(0.001)
    back.stop()
    assert back.left is None


def test_what_a_worker_has_ended_may_be_begun_again_and_what_killed_too_many_may_not() -> None:
    attempts = Attempts()
    assert [attempts.begin("shard") for _ in range(DEATHS + 2)] == [0] * (DEATHS + 1) + [DEATHS + 1]
    assert attempts.begin("another shard") == 0
    attempts.end("shard")
    assert attempts.begin("shard") == 0


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=re.escape(install_extra("ray"))):
        RayEngine(WorkerSetup("model", "26 Jul 2024", LabelQuestion(("joy",), "Why?"), 512), 1, {})
