"""A Ray cluster of several nodes on this machine, of which one that holds a worker is killed: every reasoning comes
once, and is the one that a single process writes.

    PYTHONPATH=tests python -m benchmarks.trouble.nodes [--spare] [--requests 120] [--backend torch]

With `--spare`, a third node takes the worker over, and the job ends without an error. Without, the cluster has no room
for it: the job ends with an error, after `--patience` seconds at most, and is run again with the worker that is left,
on what was not written. On a busy machine Ray's nodes do not start in time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import make_tiny_llama

from rir_mlx.augmentation.engines.base import GeneratedReasoning, ReasoningRequest
from rir_mlx.augmentation.engines.cluster import RayEngine, WorkerSetup
from rir_mlx.backends.base import Sampling
from rir_mlx.errors import Failure
from rir_mlx.prompting.prompts import LabelQuestion

SAMPLING = Sampling(max_tokens=24, temperature=1.0, batch_size=2)
WORKERS = 2
BEFORE = 10
"""Results before a node is killed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spare", action="store_true", help="a node more than workers")
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--patience", type=float, default=20.0)
    parser.add_argument("--backend", default="torch", choices=["torch", "mlx", "fake"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        setup = WorkerSetup(
            model=str(make_tiny_llama(Path(folder) / "tiny")),
            date="26 Jul 2024",
            question=LabelQuestion(("joy", "anger"), "Which label fits the text?"),
            max_seq_length=512,
            backend=options.backend,
            dtype="float32",
        )
        requests = [
            ReasoningRequest(f"{number:016x}", f"text {number}", ("joy", "anger")[number % 2], number)
            for number in range(options.requests)
        ]
        written = on_nodes(setup, requests, spare=options.spare, patience=options.patience)
        alone = {result.key: result for result in setup.load().write(requests, SAMPLING)}
    keys = [result.key for result in written]
    if not len(keys) == len(set(keys)) == len(requests) or {result.key: result for result in written} != alone:
        raise SystemExit(f"{len(keys)} reasonings of {len(set(keys))} requests, of {len(requests)} in all")
    print(f"{len(keys)} of {len(requests)} reasonings, each once, equal to those of one process")


def on_nodes(
    setup: WorkerSetup, requests: Sequence[ReasoningRequest], *, spare: bool, patience: float
) -> list[GeneratedReasoning]:
    """What a cluster writes, of whose nodes one is killed after a few results."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        others = [cluster.add_node(num_cpus=1) for _ in range(WORKERS - 1 + spare)]
        cluster.wait_for_nodes(timeout=300)
        os.environ["RAY_ADDRESS"] = cluster.address
        engine = RayEngine(setup, WORKERS, {})
        engine.patience = patience
        try:
            written, killed = list[GeneratedReasoning](), 0.0
            try:
                for result in engine.write(iter(requests), SAMPLING):
                    written.append(result)
                    if len(written) == BEFORE:
                        cluster.remove_node(_with_a_worker(others), allow_graceful=False)
                        killed = time.monotonic()
            except Failure as error:
                if spare:
                    raise
                print(f"{time.monotonic() - killed:.0f} s after a node was killed: {error}")
                have = {result.key for result in written}
                left = [request for request in requests if request.key not in have]
                written += RayEngine(setup, 1, {}).write(iter(left), SAMPLING)
            print(f"all there {time.monotonic() - killed:.0f} s after a node was killed")
            return written
        finally:
            engine.close()
    finally:
        cluster.shutdown()


def _with_a_worker(nodes: Sequence[Any]) -> Any:
    """A node other than the driver's whose processor a worker holds."""
    import ray

    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    free = ray._private.state.available_resources_per_node()  # the public one tells the sum over nodes alone
    busy = [node for node in nodes if node.node_id in alive and not free.get(node.node_id, {}).get("CPU")]
    if not busy:
        raise SystemExit("Both workers are on the driver's node.")
    return busy[0]


if __name__ == "__main__":
    main()
