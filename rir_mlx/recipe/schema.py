"""The recipe: one YAML file with every setting of a run.

The models below define each key once: its default, its bounds and its help. The defaults are `recipes/emotion.yaml`.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from rir_mlx.recipe.values import ColumnNames, Delimiter, Encoding, LabelName, Labels, Section, Seed, Share, Size
from rir_mlx.types import (
    DEFAULT_BASELINES,
    DEFAULT_FILTERS,
    DEFAULT_RECIPE,
    OPEN_MIRROR,
    Arm,
    BackendName,
    Baseline,
    Choice,
    ClassWeight,
    Dtype,
    EngineName,
    Filter,
    FineTuneType,
    LearningRateSchedule,
    OnBadRows,
    OptimizerName,
    ReasoningPrompt,
    Reporter,
    ServerParameter,
)


def _source_from_text(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class SourceSpec(Section):
    """Where rows come from. A plain string is read as `path`."""

    path: str
    """A CSV, TSV, JSONL, Excel (`.xlsx`) or Parquet file, a pattern of such files (`data/*.jsonl`), the id of a Hugging
    Face data set, or `builtin:NAME` for the embedded demo data."""
    config: str | None = None
    """Configuration of a Hugging Face data set."""
    split: str | None = None
    """Split of a Hugging Face data set. Default: `train`."""
    revision: str | None = None
    """Commit, tag or branch of a Hugging Face data set."""


Source = Annotated[SourceSpec, BeforeValidator(_source_from_text)]


class DataSection(Section):
    """The labelled rows to classify."""

    train: Source = SourceSpec(path="dair-ai/emotion", config="split", split="train")
    """Training rows."""
    validation: Source | None = SourceSpec(path="dair-ai/emotion", config="split", split="validation")
    """Validation rows. If there are none, `val_size` of the training rows are set aside."""
    test: Source | None = SourceSpec(path="dair-ai/emotion", config="split", split="test")
    """Test rows. If there are none, `test_size` of the training rows are set aside."""
    text_column: ColumnNames = None
    """Column of the text, or several: `[subject, body]` become one text, each on a line behind its name. Default: the
    one with a usual name (text, sentence, content, …)."""
    label_column: ColumnNames = None
    """Column of the label. Default: the one with a usual name (label, category, class, …). Or several, `[joy, fear]`:
    each marks where its label holds (1 and 0, `x` and nothing); with `soft_labels`, votes, or a person's labels."""
    label_separator: str | None = Field(default=None, min_length=1)
    """What stands between the labels of a text that may have several, such as `;`. Lists (JSONL, Parquet, `["a", "b"]`
    in a cell) are then read as several labels, too. `null`: a text has one label."""
    no_label: LabelName = None
    """The label of texts that have none, such as `none`: no column of several is marked, or the cell of labels is
    empty. Another label may not stand beside it. `null`: such rows cannot be used."""
    soft_labels: bool = False
    """Whether a row's label may be a distribution, which is learned and scored as it is: an object with each label's
    votes or probability, `{"joy": 2, "fear": 1}`, in JSONL, Parquet, or a cell; or several columns (`label_column`)."""
    delimiter: Delimiter = None
    """The character between the cells of CSV and TSV files, such as `;` or `tab`. `null`: found from the file."""
    encoding: Encoding = None
    """Encoding of CSV, TSV and JSONL files, such as `cp1252` or `utf-16`. `null`: UTF-8."""
    quotes: bool | None = None
    """Whether quotation marks enclose cells of CSV and TSV files (`true`) or belong to the texts (`false`). `null`:
    they enclose cells, except in a TSV file that does not use them so."""
    on_bad_rows: OnBadRows = "stop"
    """What happens to rows without a text, without a known label, or with a wrong number of cells: `stop` with an error
    that lists them, or `skip` them and say how many."""
    reasoning_column: str | None = None
    """Column of your own reasonings for training and validation rows. They must pass the same filters as R-Gen's, and
    R-Gen learns from them. It writes a reasoning only if the cell is empty."""
    license: str | None = None
    """Licence of the rows, for the model card of an export."""
    labels: Labels = Field(default={})
    """The labels, each with a description that may be empty. Empty: every label of the training rows."""
    instruction: str = "Which emotion does the writer of the text express?"
    """The question that the labels answer. It starts every prompt."""
    max_samples: int | None = Field(default=4000, ge=1)
    """Use at most this many training rows, drawn by seed with every label in proportion. `null`: all rows."""
    val_size: Size = Field(default=500, ge=0)
    """Number of validation rows. Below 1, a share of the training rows. If `validation` is given, the largest number to
    use."""
    test_size: Size = Field(default=2000, ge=0)
    """Number of test rows, by the same rule."""

    @model_validator(mode="before")
    @classmethod
    def _own_rows_take_nothing_from_the_default_data(cls, values: Any) -> Any:
        if isinstance(values, dict) and "train" in values:
            several = values.get("label_separator") or isinstance(values.get("label_column"), list | tuple)
            fits = "Which labels fit" if several and not values.get("soft_labels") else "Which label fits"
            return {"validation": None, "test": None, "instruction": f"{fits} the text?"} | values
        return values

    @model_validator(mode="after")
    def _labels_are_several_or_soft(self) -> DataSection:
        if self.soft_labels and self.label_separator is not None:
            raise ValueError("soft_labels divides one label, label_separator reads several: set one of them")
        if self.label_separator is not None and isinstance(self.label_column, tuple):
            raise ValueError("label_separator reads the cells of one column, and label_column names several")
        if self.no_label is not None and self.labels and self.no_label not in self.labels:
            raise ValueError(f"no_label is {self.no_label!r}, which is not one of the labels")
        if self.several and (odd := [label for label in self.labels if ", " in label]):
            raise ValueError(f"the label {odd[0]!r} holds a comma, which stands between labels")
        return self

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.label_separator is not None or (isinstance(self.label_column, tuple) and not self.soft_labels)


class ReasoningSection(Section):
    """The triples (question, answer, reasoning) that R-Gen learns from."""

    source: Source | None = SourceSpec(path="syvai/reasoning-gen", split="train")
    """Rows with a question, its answer, and the reasoning between them. R-Gen also learns from the training rows that
    have a reasoning of their own (data.reasoning_column). `null`: only from those."""
    prompt: ReasoningPrompt = "steps"
    """What R-Gen, or a server's model, is asked for: `steps`, an explanation step by step; `words`, the words that show
    the answer and what they show; `contrast`, also why the nearest other choice does not fit; `sentence`, one sentence.
    R-Gen is trained with the same prompt."""
    examples: int = Field(default=0, ge=0)
    """R-Gen's prompt, or a server's, shows so many of your own reasonings (data.reasoning_column) with their texts and
    labels, drawn by seed with every label in proportion. R-Gen does not learn from these rows too."""
    question_column: str | None = None
    """Column of the question. Default: the one with a usual name (question, prompt, instruction, …)."""
    answer_column: str | None = None
    """Column of the answer. Default: the one with a usual name (answer, response, output, …)."""
    reasoning_column: str | None = None
    """Column of the reasoning. Default: the one with a usual name (reasoning, rationale, explanation, …)."""
    delimiter: Delimiter = None
    """The character between the cells of CSV and TSV files; see `data.delimiter`."""
    encoding: Encoding = None
    """Encoding of CSV, TSV and JSONL files; see `data.encoding`."""
    quotes: bool | None = None
    """Whether quotation marks enclose cells of CSV and TSV files; see `data.quotes`."""
    max_samples: int | None = Field(default=4000, ge=1)
    """Use at most this many triples, drawn by seed. `null`: all."""
    val_size: Size = Field(default=200, ge=0)
    """Number of triples kept for validation. Below 1, a share of them."""


class LoraParameters(Section):
    """Shape of a LoRA (arXiv:2106.09685) or DoRA (arXiv:2402.09353) adapter."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    scale: float = Field(default=2.0, gt=0)
    """The update is multiplied by this: PEFT's `lora_alpha` divided by the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    keys: tuple[str, ...] = ()
    """Modules of a layer to adapt, such as `self_attn.q_proj`. Empty: every linear layer."""


class TrainingSection(Section):
    """How one model is trained."""

    optimizer: OptimizerName = "adamw"
    """The optimizer. Each of these gives the same result in MLX and in PyTorch."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    lr_schedule: LearningRateSchedule = "cosine"
    """How the learning rate falls after the warm-up: to 0 along a cosine or a line, or not at all."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows. 2 if neither `epochs` nor `iters` is given."""
    iters: int | None = Field(default=None, ge=1)
    """Optimizer steps, instead of `epochs`."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in a batch."""
    batch_tokens: int | None = Field(default=None, ge=16)
    """Instead of `batch_size`: as many rows in a batch as fill this many tokens, padding included and the shared prefix
    not."""
    grad_accumulation_steps: int = Field(default=2, ge=1)
    """Batches in an optimizer step."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of `adamw`. The other optimizers have none."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """A gradient with a larger global norm is scaled down to this norm."""
    shared_prefix: bool = True
    """Compute the tokens that all rows of a batch start with once per batch, not once per row. The loss is the same."""
    grad_checkpoint: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, more time, same result."""
    compile: bool | None = None
    """Fuse operations with `mx.compile` or `torch.compile`. `null`: only on Apple's GPU."""
    steps_per_report: int = Field(default=10, ge=1)
    """Optimizer steps between two reports of the metrics."""
    steps_per_eval: int = Field(default=100, ge=1)
    """Optimizer steps between two evaluations on all validation rows. The best weights are kept."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations in a row without an improvement. `null`: train for all steps."""
    save_every: int = Field(default=50, ge=1)
    """Optimizer steps between two checkpoints. A stopped training resumes exactly from the last one."""
    report_to: tuple[Reporter, ...] = ()
    """Also log the metrics to `tensorboard`, `wandb` or `trackio`. They must be installed."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.iters is not None:
            raise ValueError("give epochs or iters, not both: set the other one to null")
        return self


class ClassifierSection(TrainingSection):
    """Stage 2: the classifier. Every arm is trained for the same number of optimizer steps."""

    arms: tuple[Arm, ...] = Field(default=("qa", "qra", "qar"), min_length=1)
    """Ways to train the classifier. `qa` writes only the label; `qra` a reasoning and then the label; `qar` the label
    and then a reasoning; `qarqa` a first label, a reasoning, and the label again; `multitask` the label or a reasoning,
    depending on the prompt; `curriculum` begins as `qra` and ends with the label alone. Controls: `qra-scrambled`
    learns the reasonings of other rows; `qra-words` learns its own with their words shuffled."""
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    """Every arm is trained once per seed. A seed decides the initial weights and the order of rows, not the splits. The
    classifiers of the first seed are used to classify and to export."""
    reasoning_weight: float = Field(default=0.5, ge=0)
    """λ in the loss of arms with a reasoning: mean cross-entropy of the label tokens + λ · mean cross-entropy of the
    reasoning tokens."""
    multitask_alpha: float = Field(default=0.5, gt=0, le=1)
    """α in the loss of `multitask`: α · cross-entropy of the label tokens + (1 - α) · that of the reasoning tokens."""
    wrong_first: float = Field(default=0.5, ge=0, lt=1)
    """Share of the training rows of `qarqa` whose reasoning and second label follow a wrong first label, drawn at
    random. With 0 the second label gains little over the first."""
    curriculum: tuple[Share, Share] = (0.0, 0.5)
    """Between which shares of the steps the reasonings of `curriculum` are dropped, token by token, from their
    starts."""
    learning_curve: Arm | None = None
    """Train this arm, one of `arms`, on 25 and 50 % of the training rows too, with the first seed and as many steps:
    would more labels help more than reasonings? It takes as long as two more trainings of the arm."""
    class_weight: ClassWeight | None = None
    """`balanced` weights the loss of a label by rows / (labels · rows of the label). `null`: all weigh the same."""

    @model_validator(mode="after")
    def _arms_are_matched_by_steps(self) -> Self:
        if self.curriculum[0] >= self.curriculum[1]:
            raise ValueError(f"curriculum begins before it ends, not at {list(self.curriculum)}")
        if self.batch_tokens is not None and self.iters is None and len(self.arms) > 1:
            raise ValueError("batch_tokens needs iters here, so that every arm is trained for the same number of steps")
        if self.learning_curve is not None and self.learning_curve not in self.arms:
            raise ValueError(f"learning_curve names {self.learning_curve}, which is not among arms")
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: {', '.join(map(str, values))}")
        return self


class AugmentSection(Section):
    """A reasoning for every labelled row, written by R-Gen or by a model on a server."""

    engine: EngineName = "local"
    """What writes the reasonings: `local`, R-Gen in this process; `ray`, R-Gen on the workers of a Ray cluster;
    `openai`, the model of an OpenAI-compatible server."""
    n: int = Field(default=1, ge=1, le=64)
    """Reasonings per row, of which `choose` keeps one. More than one needs a temperature."""
    choose: Choice = "likeliest"
    """Which of several reasonings is kept: the `first` that passes the filters; the one that, with all label words
    blanked out, makes the label `likeliest` to R-Gen; or the most `useful` one, which raises the label's probability
    most for a classifier that has not seen the row's label. For that, two classifiers are trained, each on one half of
    the training rows with their first reasonings, and each judges the other half."""
    retries: int = Field(default=2, ge=0)
    """If all reasonings of a row are rejected, new ones are generated up to this many times, with new seeds and at a
    temperature of at least 0.7."""
    filters: tuple[Filter, ...] = DEFAULT_FILTERS
    """Rules that a reasoning must pass: not `repeating` itself, not `copying` the text, not only `restating` the label,
    not concluding `another label`, not a `stock` reasoning that many rows share and that is about none of them, not
    `ungrounded`, without a word of its text, and not `uninformative`, one that R-Gen would write as well for other
    texts of the label. A reasoning that is empty, cut off, or holds control tokens or the label's delimiter is always
    rejected."""
    ungrounded_at_most: float = Field(default=0.1, ge=0, le=1)
    """The filter `ungrounded` is applied only if it costs at most this share of the validation rows their reasoning. 1:
    always."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest reasoning, in tokens. Longer ones are rejected."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of the draws. 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that have this probability together."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Draw from tokens with at least this fraction of the likeliest token's probability."""
    repetition_penalty: float = Field(default=1.0, ge=1)
    """Above 1, tokens that already occur in the reasoning become less likely."""
    batch_size: int = Field(default=32, ge=1)
    """Reasonings generated at once."""
    base_url: str | None = None
    """Address of the server for `openai`, such as http://127.0.0.1:8080/v1. Its key is read from OPENAI_API_KEY."""
    server_model: str | None = None
    """Name of the server's model. Not needed if the server has only one."""
    concurrency: int = Field(default=16, ge=1)
    """Requests to the server at a time."""
    timeout: float = Field(default=120, gt=0)
    """Seconds that a request to the server may take, including the time it waits for other requests."""
    omit_parameters: tuple[ServerParameter, ...] = ()
    """Parameters that are not sent to the server because it does not take them. Others that it refuses as unknown are
    left out once it has said so; `max_tokens` is then sent as `max_completion_tokens`."""
    workers: int = Field(default=2, ge=1)
    """Number of workers for `ray`. Each loads the model."""

    @model_validator(mode="after")
    def _several_differ(self) -> Self:
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n above 1 needs a temperature above 0: the likeliest text is one")
        if self.engine == "openai" and not self.base_url:
            raise ValueError("engine openai needs base_url, such as http://127.0.0.1:8080/v1")
        return self


class EvaluateSection(Section):
    """How the arms are measured on the test rows."""

    max_reasoning_tokens: int = Field(default=128, ge=1)
    """Longest reasoning, in tokens. The label is scored after it."""
    samples: int = Field(default=1, ge=1, le=64)
    """Above 1, arms that reason first are also measured with this many drawn reasonings per row, over which the label
    probabilities are averaged (arXiv:2203.11171)."""
    sample_temperature: float = Field(default=0.7, gt=0)
    """Temperature of the drawn reasonings."""
    wanted_accuracy: float | None = Field(default=None, gt=0, le=1)
    """A threshold is chosen on the validation rows above which answers are correct this often, with a certainty of
    95 % (97.5 % where it reasons in doubt: the same rows choose when). If none is shown to reach it, no text gets a
    label: 500 rows cannot show 0.99."""
    baselines: tuple[Baseline, ...] = DEFAULT_BASELINES
    """What the arms are measured against: the `majority` label, `tf-idf` with logistic regression, the `untuned` base
    model, and an `embedding` of the texts with logistic regression, which needs `embedding_model`."""
    embedding_model: str | None = None
    """The sentence encoder of the baseline `embedding` (PyTorch): a folder of the sentence-transformers library, or a
    Hugging Face id. It is not trained. Naming one adds the baseline."""
    encoder: str | None = None
    """Also fine-tune this encoder with a classification head (PyTorch): a Hugging Face id or a folder."""
    batch_size: int = Field(default=32, ge=1)
    """Rows scored at once."""

    @model_validator(mode="after")
    def _embedding_has_a_model(self) -> Self:
        if "embedding" in self.baselines and self.embedding_model is None:
            raise ValueError("the baseline embedding needs embedding_model, such as a folder of all-MiniLM-L6-v2")
        return self


class Recipe(Section):
    """A run: every setting that decides its result."""

    name: str = Field(default=DEFAULT_RECIPE, pattern=r"^[\w][\w.-]*$")
    """Names the run's folder, `runs/<name>`."""
    model: str = OPEN_MIRROR
    """Base model of every stage: a Hugging Face id, a folder in its format, or `builtin:tiny-llama`."""
    revision: str | None = None
    """Commit, tag or branch of the model on the hub."""
    backend: BackendName = "auto"
    """`auto`: MLX on Apple silicon, PyTorch elsewhere."""
    dtype: Dtype = "auto"
    """Number format of the frozen weights; trained weights are always float32. `auto`: bfloat16 if the machine is fast
    in it, else float32; with MLX on a GPU the folder's own. float16 is for inference only; training refuses it, because
    small gradients vanish."""
    seed: Seed = 0
    """Decides the splits, initial weights, order of rows, and draws."""
    max_seq_length: int = Field(default=512, ge=16)
    """Longest row in tokens. Longer texts are trimmed and counted; answers are never trimmed."""
    date: str = "26 Jul 2024"
    """The date that Llama's chat template prints. It is fixed, so that a prompt is the same tomorrow."""
    fine_tune_type: FineTuneType = "lora"
    """Train a low-rank adapter, a weight-decomposed one, or all weights."""
    num_layers: int = Field(default=-1, ge=-1)
    """Train this many of the last layers. 0 and -1 mean all."""
    lora_parameters: LoraParameters = LoraParameters()
    data: DataSection = DataSection()
    reasoning: ReasoningSection = ReasoningSection()
    rgen: TrainingSection = TrainingSection()
    augment: AugmentSection = AugmentSection()
    classifier: ClassifierSection = ClassifierSection()
    evaluate: EvaluateSection = EvaluateSection()
