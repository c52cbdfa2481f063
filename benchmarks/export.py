"""Every export of a Llama-3.2-1B-shaped classifier: differences, sizes, times and peak memory.

    python -m benchmarks.export [--layers 16] [--folder FOLDER] [--formats hf,mlx,…]

The weights are random, and so is the adapter: LoRA of rank 16 on every linear layer, neither factor zero. It is put
into a run of six emotion labels as if it had been trained, with texts of the embedded data, and exported by the
command, in a process of its own each. Then the Hugging Face folder is corrupted in the ways that are known to happen,
and the verification's answer to each is printed. The tokenizer is the embedded model's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rir_mlx.models.adapter_spec import AdapterSpec, adapted_layers
from rir_mlx.models.adapters import Adapter, write_adapter
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.recipe.loading import load_recipe
from rir_mlx.speed.shapes import make_shape
from rir_mlx.storage.layout import RunDir

FORMATS = {
    "hf": ["--to", "hf"],
    "mlx": ["--to", "mlx"],
    "mlx-8bit": ["--to", "mlx", "--quantize", "8"],
    "mlx-4bit": ["--to", "mlx", "--quantize", "4"],
    "gguf-f16": ["--to", "gguf", "--gguf-type", "f16"],
    "gguf-q8_0": ["--to", "gguf", "--gguf-type", "q8_0"],
    "adapter": ["--to", "adapter"],
}
SPEC = AdapterSpec(rank=16, scale=2.0)


def make_run(folder: Path, layers: int, size: float) -> Path:
    """A run whose `qa` classifier is base and random adapter."""
    model = folder / "model"
    if not (model / "model.safetensors").is_file():
        make_shape(model, 2048, layers, 128256)
    base = resolve_model(str(model))
    recipe = load_recipe("demo", (f"model={model}", "name=shape", "backend=torch"))
    run = RunDir(folder / "runs" / "shape")
    run.save_recipe(recipe)
    rng, config, tensors = np.random.default_rng(1), base.config, {}
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden, keys)}
    shapes |= {"self_attn.v_proj": (hidden, keys), "self_attn.o_proj": (hidden, hidden)}
    shapes |= {"mlp.gate_proj": (hidden, middle), "mlp.up_proj": (hidden, middle), "mlp.down_proj": (middle, hidden)}
    for layer in adapted_layers(SPEC, layers):
        for key, (inner, outer) in shapes.items():
            at = f"model.layers.{layer}.{key}"
            tensors[f"{at}.lora_a"] = rng.normal(0, size, (inner, SPEC.rank)).astype(np.float32)
            tensors[f"{at}.lora_b"] = rng.normal(0, size, (SPEC.rank, outer)).astype(np.float32)
    labels = dict.fromkeys(("sadness", "joy", "love", "anger", "fear", "surprise"), "")
    task = ClassificationTask(
        labels, recipe.data.instruction, recipe.max_seq_length, recipe.evaluate.max_reasoning_tokens
    )
    stage = run.classifier("qa")
    stage.begin()
    write_adapter(stage.adapter, Adapter(SPEC, tensors, {"task": asdict(task)}), base)
    stage.finish({})
    return run.folder


@dataclass(frozen=True)
class Cost:
    """Seconds, and peak GB (10⁹ bytes) of a process: all that is resident, and what of it is its own, without the pages
    of mapped files, which the system drops when it needs room. Own memory is looked up 20 times a second, on Linux."""

    seconds: float
    resident: float
    own: float

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s | {self.own:.1f} GB | {self.resident:.1f} GB"


def timed(command: list[str]) -> tuple[Cost, subprocess.CompletedProcess[str]]:
    """The cost of a process and its children, alone among those of this one."""
    code = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(done.returncode)"
    start, own = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, "-c", code, *command], stdout=out, stderr=err)
        while process.poll() is None:
            own = max(own, own_memory(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        for file in (out, err):
            file.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, int(done.stderr.splitlines()[-1]) * unit / 1e9, own / 1e9), done


def own_memory(process: int) -> int:
    """Bytes of the process, or of the child process that uses most."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        below = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8")
    except OSError:
        return 0
    mine = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return max([mine, *(own_memory(int(pid)) for pid in below.split())])


WRITTEN: dict[str, str] = {
    "hf": "write_hf_folder(out, fused, base, FolderMetadata([1]))",
    "gguf-f16": "write_gguf(model, out, 'f16', weights=whole)",
    "gguf-q8_0": "write_gguf(model, out, 'q8_0', weights=whole)",
    "adapter to peft": "convert_adapter(adapter, out, 'peft')",
    "adapter to mlx": "convert_adapter(adapter, out, 'mlx')",
}


def write(run: Path, name: str) -> None:
    """Writing alone, in a process of its own: time, size and peak memory."""
    out = run / f"written-{name.replace(' ', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    code = "import sys; from pathlib import Path; from rir_convert.adapters import *; "
    code += "from rir_convert.weights.merging import Fused; "
    code += "from rir_convert.gguf.writer import write_gguf; from rir_convert.weights.hf_folder import *; "
    code += "from rir_convert.weights.tensors import *; "
    code += "from rir_mlx.models.hub import resolve_model; from rir_mlx.models.adapters import read_adapter; "
    code += "model, adapter, out = map(Path, sys.argv[1:]); base = resolve_model(str(model)); "
    code += "trained = read_adapter(adapter, base); "
    code += "given = (base_weights(model, base.config), trained.spec, trained.tensors); "
    code += "fused, whole = Fused(*given), Fused(*given, dtype='float32'); " + WRITTEN[name]
    model, adapter = run.parent.parent / "model", run / "classifier-qa" / "adapter"
    cost, done = timed([sys.executable, "-c", code, *map(str, (model, adapter, out))])
    assert done.returncode == 0, done.stderr
    files = [out] if out.is_file() else out.rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file()) / 1e9
    print(f"| {name}, writing alone | {size:.2f} GB | {cost} |", flush=True)


def export(run: Path, name: str) -> None:
    command = [
        sys.executable,
        "-m",
        "rir_cli",
        "export",
        str(run),
        "--arm",
        "qa",
        *FORMATS[name],
        "--json",
        "--offline",
    ]
    cost, done = timed(command)
    if done.returncode:
        print(f"| {name} | failed: {done.stderr.strip()[-600:]} |", flush=True)
        return
    values = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in Path(values["folder"]).rglob("*") if path.is_file()) / 1e9
    for engine, found in values["engines"].items():
        keys = ("max_difference", "mean_difference", "label_agreement", "probability_difference")
        measured = ["" if found[key] is None else f"{found[key]:.3g}" for key in keys]
        print(
            f"| {name} | {engine} | {' | '.join(measured)} | {size:.2f} GB | {cost} |",
            flush=True,
        )


def change(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def lose_rope(folder: Path, _: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["rope_theta"], config["rope_scaling"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def lose_adapter(folder: Path, base: Path) -> None:
    shutil.copyfile(base / "model.safetensors", folder / "model.safetensors")


def edit(folder: Path, edited: Callable[[dict[str, np.ndarray]], None]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    edited(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def transpose(folder: Path, _: Path) -> None:
    name = "model.layers.3.self_attn.q_proj.weight"
    edit(folder, lambda tensors: tensors.update({name: np.ascontiguousarray(tensors[name].T)}))


def untie(folder: Path, _: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] * 1.01}))


def lose_terminator(folder: Path, _: Path) -> None:
    change(folder / "generation_config.json", {"eos_token_id": 0})


def lose_template(folder: Path, _: Path) -> None:
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["chat_template"]
    path.write_text(json.dumps(values), encoding="utf-8")


CORRUPTIONS: dict[str, Callable[[Path, Path], None]] = {
    "rotary keys in the newer form alone": lose_rope,
    "the base's weights, adapter lost": lose_adapter,
    "a square layer transposed": transpose,
    "a head beside the tied embedding": untie,
    "another end of text": lose_terminator,
    "chat template lost": lose_template,
}


def corrupted(run: Path) -> None:
    """What the verification says of each."""
    from rir_cli.context import trained_context
    from rir_convert.trained_arm import TrainedArm
    from rir_convert.verification.verifier import Verifier

    context = trained_context(str(run), run.parent, None, offline=True, quiet=True)
    trained = TrainedArm(context, "qa")
    verifier = Verifier(context.progress, trained.reference())
    whole, folder = context.run.export("hf", "qa"), run / "corrupted"
    for what, corrupt in CORRUPTIONS.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in whole.iterdir():
            shutil.copyfile(path, folder / path.name)
        corrupt(folder, context.model.files.folder)
        for found in verifier.of_folder(folder, trained.prompts, trained.codec):
            print(
                f"| {what} | {found.engine} | {'; '.join(found.faults) or 'passes'} | {found.first_difference or ''} |",
                flush=True,
            )
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--size", type=float, default=0.02, help="standard deviation of the adapter's numbers")
    parser.add_argument("--folder", type=Path, help="where model and run are kept; a temporary one otherwise")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--write", action="store_true", help="measure writing alone, too")
    parser.add_argument("--no-corruption", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = make_run((options.folder or Path(temporary)).absolute(), options.layers, options.size)
        for name in WRITTEN if options.write else ():
            write(run, name)
        print(
            "| export | engine | max | mean | labels | probability | size | time | own memory | resident |", flush=True
        )
        for name in filter(None, options.formats.split(",")):
            export(run, name)
        if not options.no_corruption:
            corrupted(run)


if __name__ == "__main__":
    main()
