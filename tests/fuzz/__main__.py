"""Mutated tables, recipes, JSONL files, adapter folders, weight files and server answers, through the readers that the
commands call.

    PYTHONPATH=tests python -m fuzz [--cases 10000] [--seconds 300] [--seed 0] [--only 1234]

Prints how many cases of each kind were read and how many refused. A traceback, or something that is gone without a
word, is a finding: it is shown with its number, its input is kept, and the exit code is 1. `--only NUMBER` makes one
case again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from fuzz.cases import Kind, fuzz
from fuzz.recipes import Recipes
from fuzz.servers import ServerAnswers
from fuzz.tables import JsonLines, Tables
from fuzz.weights import Adapters, Headers
from rir_mlx.models.hub import resolve_model
from rir_mlx.prompting.codec import Codec


def every_kind(codec: Codec) -> list[Kind]:
    return [Tables(), JsonLines(), Recipes(), Adapters(), Headers(), ServerAnswers(codec)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    codec = Codec(resolve_model("builtin:tiny-llama", offline=True).folder, "26 Jul 2024")
    numbers = range(options.cases) if options.only is None else range(options.only, options.only + 1)
    folder, begun = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic()
    tallies = fuzz(every_kind(codec), numbers, seed=options.seed, folder=folder, seconds=options.seconds)
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    print("| kind | cases | read | refused | findings |\n|---|---|---|---|---|")
    for name, tally in tallies.items():
        print(f"| {name} | {tally.cases:,} | {tally.read:,} | {tally.refused:,} | {len(tally.findings)} |")
    cases = sum(tally.cases for tally in tallies.values())
    took = f"{time.monotonic() - begun:.0f} s, {time.process_time():.0f} s of the processor"
    print(f"\n{cases:,} of {len(numbers):,} cases with the seed {options.seed} in {took}: {len(findings)} findings")
    for finding in findings[:20]:
        print(f"\n{finding.kind}, --seed {options.seed} --only {finding.number}: {finding.what}")
    if findings:
        print(f"\nThe inputs: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
