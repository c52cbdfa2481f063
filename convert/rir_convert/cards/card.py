"""The model card of an export: README.md with the metadata that the Hugging Face hub reads.

Format: https://huggingface.co/docs/hub/model-cards. A card is made from `CardFacts` only, which hold no rows of the
data; the example's text is made up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rir_convert.cards.program import environment
from rir_convert.prompt_parts import way_of
from rir_mlx.evaluation.entries import DESCRIPTIONS
from rir_mlx.evaluation.report import formats
from rir_mlx.evaluation.schema import Comparison, EntryResult
from rir_mlx.prompting.arms import ClassificationTask
from rir_mlx.prompting.prompts import reasons_first, writes_reasoning
from rir_mlx.statistics.calibration import Calibration
from rir_mlx.statistics.intervals import Interval
from rir_mlx.types import CONTROLS, Arm

_IDENTIFIERS = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl "
    "gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other"
)
"""Identifiers that the hub takes: https://huggingface.co/docs/hub/repositories-licenses."""
_KNOWN = frozenset(_IDENTIFIERS.split())
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"}
_FEW = 1000
"""Test rows below which the card says that they are few: an accuracy of 90 % is then known to ± 1.9 points at best."""
_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "log_loss": "log-loss (less is better)",
    "brier": "Brier score (less is better)",
    "calibration_error": "calibration error (less is better)",
}
_SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")


@dataclass(frozen=True)
class DataSource:
    """The source of rows. `part` is train, validation, test or reasoning; `name` a data set of the hub or a file;
    `version` its commit or hash."""

    part: str
    name: str
    version: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class CardExample:
    """The example on the card: `prompt` from `example_prompt` and, if transformers reads the folder, `code` from
    `example_code` and the output from `run_example`. Its text must be made up."""

    prompt: str
    code: str | None = None
    output: str | None = None


CardForm = Literal["hf", "mlx", "mlx-quantised", "gguf", "adapter"]
"""The programs that read the folder."""
_LIBRARIES = {"hf": "transformers", "mlx": "mlx", "mlx-quantised": "mlx", "gguf": None, "adapter": "peft"}
_TAGS = {"hf": (), "mlx": ("mlx",), "mlx-quantised": ("mlx",), "gguf": ("gguf",), "adapter": ("mlx",)}
_RELATIONS = {
    "hf": "finetune",
    "mlx": "finetune",
    "mlx-quantised": "quantized",
    "gguf": "quantized",
    "adapter": "adapter",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    name           of the model, used as heading
    base           the base model: a hub id, or a folder
    base_licence   of `base_licence`
    recipe         YAML text
    verification   the content of verification.json, of `verification.record`
    comparison     of the run; None if this model was not evaluated
    command        the command that made it
    versions       of programs, by name
    form           of the folder
    """

    name: str
    base: str
    base_revision: str | None
    base_licence: str | None
    sources: Sequence[DataSource]
    arm: Arm
    task: ClassificationTask
    calibration: Calibration
    recipe: str
    example: CardExample
    verification: Mapping[str, Any]
    comparison: Comparison | None
    command: str
    versions: Mapping[str, str]
    form: CardForm = "hf"

    @property
    def headline(self) -> str | None:
        """The outcome in a sentence."""
        return self.comparison.headline.text if self.comparison and self.comparison.headline else None

    @property
    def recommendation(self) -> str | None:
        """Which classifier of the run to use, and why."""
        return self.comparison.recommendation if self.comparison else None

    @property
    def verdict(self) -> str | None:
        """The sentence on whether reasoning helped."""
        return self.comparison.verdict if self.comparison else None


def base_licence(folder: Path) -> str | None:
    """The licence of the model in a folder: `license` in its card's metadata, `license_name` if that is `other`; else
    the first line of LICENSE; None if there is neither."""
    values = _front_matter(folder / "README.md")
    licence = values.get("license")
    if licence == "other":
        licence = values.get("license_name") or licence
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    if licence:
        return str(licence)
    for path in sorted(folder.glob("LICENSE*")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        if first := next((line.strip() for line in lines if line.strip()), None):
            return first
    return None


def model_card(facts: CardFacts) -> str:
    """README.md: metadata in YAML, then what the model is, how to prompt it, how good it is, and how it was made.

    The home folder is written as `~`: a card is published and must not contain the user's name."""
    template = _environment().get_template("card.md.j2")
    text: str = template.render(
        facts=facts,
        front_matter=yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True),
        what=_what(facts.arm),
        base_link=_on_hub(facts.base),
        temperature=facts.calibration.temperature[way_of(facts.arm)],
        label_first=not reasons_first(facts.arm),
        writes_reasoning=writes_reasoning(facts.arm),
        table=_table(facts.arm, facts.comparison) if facts.comparison else None,
    )
    home = str(Path.home())
    return re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


def _what(arm: Arm) -> str:
    what = {
        "qa": "A text classifier that writes a label.",
        "qra": "A text classifier that writes a reasoning, then a label.",
        "qar": "A text classifier that writes a label, then a reasoning.",
        "qarqa": "A text classifier that writes a first label, a reasoning, and the label again.",
        "curriculum": "A text classifier that writes a label. In training it reasoned first, less and less.",
        "multitask": "A text classifier that writes a label or, with another prompt, a reasoning.",
    }
    if arm in CONTROLS:
        return f"A text classifier that was trained as a control, not to be used ({DESCRIPTIONS[arm]})."
    return what[arm]


def _metadata(facts: CardFacts) -> dict[str, Any]:
    found = facts.base_licence or "unknown"
    licence: dict[str, str] = {"license": found}
    if found not in _KNOWN or found == "other":
        name = re.sub(r"[^a-z0-9.]+", "-", found.lower()).strip("-")[:60] or "other"
        licence = {"license": "other", "license_name": name}
    values: dict[str, Any] = dict(licence)
    if library := _LIBRARIES[facts.form]:
        values["library_name"] = library
    values["pipeline_tag"] = "text-generation"
    if _on_hub(facts.base):
        values["base_model"] = facts.base
        values["base_model_relation"] = _RELATIONS[facts.form]
    if datasets := list(dict.fromkeys(source.name for source in facts.sources if _on_hub(source.name))):
        values["datasets"] = datasets
    return values | {"tags": ["text-classification", "reasoning", "rir-mlx", facts.arm, *_TAGS[facts.form]]}


def _table(arm: Arm, comparison: Comparison) -> dict[str, Any] | None:
    """The arm's metrics beside those of label-only and the baselines; None if the arm was not measured."""
    measured = comparison.entry(arm)
    if measured is None:
        return None
    others = [entry for entry in comparison.entries if entry.name == "qa" or entry.kind == "baseline"]
    shown = [measured, *(entry for entry in others if entry.name != arm)]
    rows = comparison.rows.test
    return {
        "rows": f"{rows:,}",
        "few": rows < _FEW,
        "seeds": len(measured.seeds),
        "columns": [(entry.name, entry.description) for entry in shown],
        "lines": _several_lines(shown) if measured.several else _metric_lines(shown, _METRICS),
        "warnings": comparison.warnings,
    }


def _metric_lines(shown: Sequence[EntryResult], names: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    return [(name, [_metric(key, getattr(entry.metrics, key)) for entry in shown]) for key, name in names.items()]


def _several_lines(shown: Sequence[EntryResult]) -> list[tuple[str, list[str]]]:
    """Where a text may have several labels: how often all are right, and of the likeliest combination, which the card's
    program prints, how well its labels are found."""
    found = [entry.several.likeliest for entry in shown if entry.several]
    sets = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "jaccard": "Jaccard"}
    sets = {key: f"{name} of the likeliest combination" for key, name in sets.items()}
    return [
        *_metric_lines(shown, {"accuracy": "all labels right"}),
        *((name, [_metric("macro_f1", getattr(each, key)) for each in found]) for key, name in sets.items()),
        *_metric_lines(shown, {key: _METRICS[key] for key in ("log_loss", "brier", "calibration_error")}),
    ]


def _metric(key: str, found: Interval | None) -> str:
    if found is None:
        return formats.MISSING
    write = formats.hundredths if key in _SHARES else formats.number
    unit = "\u00a0%" if key in _SHARES else ""
    return f"{write(found.value)}{unit} ({write(found.low)} to {write(found.high)})"


def _front_matter(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    match = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _on_hub(name: str) -> bool:
    """Whether a name can be a hub id. `data/rows.csv` looks like one but is a file."""
    return bool(_HUB_ID.fullmatch(name)) and Path(name).suffix not in _FILES and not Path(name).exists()


def _plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#&$~])", r"\\\1", " ".join(str(text).split()))


def _fenced(text: str, language: str) -> str:
    """A code block that no line of the text ends."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"


def _short(value: Any) -> str:
    return formats.MISSING if formats.finite(value) is None else f"{value:.3g}"


def _environment() -> Any:
    made = environment().overlay()
    own = {"plain": _plain, "fenced": _fenced, "short": _short, "percent": formats.percent, "whole": formats.whole}
    made.filters = {**made.filters, **own}
    return made
