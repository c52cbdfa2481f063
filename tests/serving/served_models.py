"""Classifiers on the fake backend, whose answers take no time, and a server in a thread that answers with them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import uvicorn
from commands import LABELS

from rir_mlx.backends.fake import FakeModel
from rir_mlx.classification.classifier import Classifier
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.codec import Codec
from rir_mlx.recipe.schema import Recipe
from rir_mlx.serving.app import make_app
from rir_mlx.serving.guard import Policy
from rir_mlx.serving.server import prompt_connections
from rir_mlx.serving.wire import Served
from rir_mlx.serving.workbench.arms import Loaded, ServedRun
from rir_mlx.serving.workbench.routes import Workbench
from rir_mlx.serving.worker import Limits, Worker
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.storage.layout import RunDir
from rir_mlx.types import Arm

TASK = ClassificationTask(dict.fromkeys(LABELS, ""), "Which label fits the text?", 320, 12)
CALIBRATION = Calibration({"direct": 1.5, "reasoned": 0.7, "sampled": 1.0}, 40, reason_below=0.36)
TEXTS = [f"{words} {number}" for number in range(5) for words in ("i feel happy today", "i was sad", "now i am angry")]
SERVED = Served("small", "qra", LABELS, "2026-11-28", 1_795_000_000, True, {"direct": 0.3, "reasoned": 0.35})


def fake_classifier(codec: Codec, arm: Arm = "qra", model: FakeModel | None = None) -> Classifier:
    return Classifier(model or FakeModel(400), codec, TASK, arm, CALIBRATION)


def served_run(
    run: RunDir, recipe: Recipe, classifier: Classifier, load: Callable[[Arm], Classifier] | None = None
) -> ServedRun:
    """A run that is served by a classifier; `load` gives those of its other arms."""
    return ServedRun(run, recipe, classifier.arm, load or (lambda arm: classifier), described)


def described(classifier: Classifier) -> Served:
    task = classifier.task
    single = tuple(task.labels) if task.combinations else ()
    return replace(SERVED, arm=classifier.arm, labels=tuple(task.names), single=single)


def several_labels(codec: Codec) -> Classifier:
    """A classifier of texts that may have several labels."""
    task = replace(TASK, combinations=(*LABELS, ", ".join(sorted(LABELS[:2]))))
    calibration = Calibration({"reasoned": 1.7}, 40, given_from={"reasoned": dict.fromkeys(LABELS, 0.32)})
    return Classifier(FakeModel(400), codec, task, "qra", calibration)


@contextmanager
def serving(
    classifier: Classifier,
    policy: Policy | None = None,
    limits: Limits | None = None,
    source: ServedRun | None = None,
    head_seconds: float = 30.0,
) -> Iterator[tuple[str, Worker]]:
    """The address of a server in a thread, and its worker."""
    worker = Worker(lambda: classifier, limits)
    worker.start()
    main = Loaded(worker, described(classifier))
    workbench = Workbench(source, main, worker.limits) if source is not None else None
    app = make_app(worker, main.served, policy or Policy(), workbench=workbench)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(app, lifespan="off", log_config=None, http=prompt_connections(head_seconds), loop="asyncio")
        )
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", worker
        server.should_exit = True
        thread.join(10)
    worker.stop(10)
    if workbench is not None:
        workbench.arms.stop(10)
