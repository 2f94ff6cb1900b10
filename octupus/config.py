"""Every value of a recipe, typed; :func:`load` turns ``data_recipes/<name>.yaml`` plus overrides into a frozen Recipe.

Precedence: defaults < the recipe that ``extends`` names < recipe < ``SET="stage1.lr=1e-5 serve.port=0"``. Recipes
hold values, not logic; whatever follows from others (accumulation, say) is computed here, never written twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from octupus.errors import ConfigError, explain

RECIPES = Path(__file__).resolve().parent.parent / "data_recipes"


class Section(BaseModel):
    """Immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ScratchModel(Section):
    """A Qwen2 architecture with random weights and a BPE tokenizer trained on the recipe's own corpus (the demo)."""

    vocab_size: int = 4096
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    max_positions: int = 16384
    tied: bool = True
    mimetic: bool = True
    """Attention starts near the identity (octupus/mimetic.py): the model learns to copy in minutes."""
    seed: int = 0


class ModelSection(Section):
    """What training starts from: a hub id or folder (``base``), or random weights (``scratch``); exactly one."""

    base: str | None = None
    revision: str | None = None
    scratch: ScratchModel | None = None

    @model_validator(mode="after")
    def _one(self) -> ModelSection:
        if (self.base is None) == (self.scratch is None):
            raise ValueError("name exactly one of model.base (a hub id or folder) and model.scratch (random weights)")
        return self


class WireSection(Section):
    dialect: Literal["octupus", "octupus-v1", "qwen"] = "octupus"
    system: str | None = None
    """Replaces the dialect's default system message."""


Gate = Literal[
    "cut by length",
    "empty",
    "too short",
    "repetition loop",
    "refusal",
    "wrong language",
    "leaked template token",
    "names itself",
    "repeats the prompt",
]
GATES: tuple[Gate, ...] = get_args(Gate)


class Sampling(Section):
    """How a teacher answers; decides, with model and template, the ids of its answers."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 2048
    seed: int = 0


class SourceSection(Section):
    """One data set in a mixture. ``epochs`` may be a fraction: a seeded sample."""

    name: str
    """A module of ``data_recipes.sources``."""
    path: str | None = None
    """A local file or folder; None means the hub id that the source declares."""
    revision: str | None = None
    epochs: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, gt=0)
    max_reject_rate: float = Field(default=0.2, ge=0, le=1)
    max_per_function: int | None = Field(default=None, gt=0)
    """In place of the balance's, for a source that is balanced as it is made."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Rows written otherwise are rejected; told by script, so ``en`` is anything in Latin letters."""
    options: dict[str, Any] = {}
    """Passed to the source as keyword arguments (a config's name, a split, a seed)."""


class TeacherSection(Section):
    """Who answers what, how, and which answers are good enough."""

    engine: Literal["scripted", "vllm", "openai", "server"] = "vllm"
    """``server``: our own server beside each worker, constrained; it alone answers prompts with tools on vLLM."""
    model: str | None = None
    sampling: Sampling = Sampling()
    prompts: tuple[SourceSection, ...] = ()
    shards: int = Field(default=1, gt=0)
    """Units of work, of about equal tokens; a worker claims one at a time."""
    workers: int = Field(default=1, gt=0)
    """Jobs that answer at the same time, each with a model of its own."""
    n: int = Field(default=1, gt=0)
    """Candidates a turn; of those that pass the gates the scorer's favourite is kept, without a scorer the first."""
    scorer: str | None = None
    """``module:function``, called with (messages, candidate); the higher its number the better."""
    retries: int = Field(default=0, ge=0)
    """How often a turn whose answers were all rejected is asked again, with other seeds."""
    retry_sampling: Sampling | None = None
    """How it is asked then; None: as before."""
    gates: tuple[Gate, ...] = GATES
    tokens_per_s: float | None = Field(default=None, gt=0)
    """Of one worker, as measured somewhere: what DRY=1 reckons with until this run has a rate of its own."""
    engine_args: dict[str, Any] = {}


class BalanceSection(Section):
    """What is done to tool conversations so that a model reads the tools instead of remembering them; all off."""

    max_per_function: int | None = Field(default=None, gt=0)
    """Rows of one source that call one function; which ones is a seeded choice."""
    mask_names: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations whose functions and parameters get random names, where descriptions tell what they do."""
    shuffle_tools: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations whose tools come in a random order."""
    distractors: int = Field(default=0, ge=0)
    """At most so many tools of other conversations are added to one's own."""
    irrelevance: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations with a call that lose the right tool, so that the right answer is text."""

    @property
    def changes(self) -> bool:
        return bool(self.mask_names or self.shuffle_tools or self.distractors or self.irrelevance)


class DataStage(Section):
    """The shards of one training stage."""

    context: int = Field(default=4096, gt=0)
    sources: tuple[SourceSection, ...] = ()
    balance: BalanceSection = BalanceSection()
    seed: int = 0


class DataSection(Section):
    stage1: DataStage = DataStage()
    stage2: DataStage = DataStage()
    heldout: tuple[SourceSection, ...] = ()
    """Conversations that are never trained on; exact-call accuracy is measured on them."""
    decontaminate: bool = True
    near_duplicates: float | None = Field(default=0.9, gt=0.5, le=1)
    """The share of five-word runs from which on two conversations of a stage count as one; null: exact ones only."""


class DeepSpeedSection(Section):
    zero: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lives in the host's memory: nothing, the optimizer's state (ZeRO-1 and up), the weights too (ZeRO-3)."""
    overlap: bool = True
    """Gradients travel while the backward pass goes on."""

    @model_validator(mode="after")
    def _can_offload(self) -> DeepSpeedSection:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero < least:
            raise ValueError(f"offload {self.offload!r} needs zero {least} or more, not {self.zero}")
        return self


class TrainSection(Section):
    """One training stage. ``global_batch`` counts packed rows of ``context`` tokens per optimizer step."""

    nodes: int = Field(default=1, gt=0)
    ranks_per_node: int = Field(default=8, gt=0)
    micro_batch: int = Field(default=1, gt=0)
    global_batch: int = Field(default=8, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    lr: float = Field(default=2e-5, gt=0)
    min_lr: float = Field(default=1e-6, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    weight_decay: float = 0.0
    beta2: float = 0.95
    clip: float = Field(default=1.0, gt=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    deepspeed: DeepSpeedSection = DeepSpeedSection()
    checkpoint_every: int = Field(default=200, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    max_bad_steps: int = Field(default=5, gt=0)
    """Steps whose loss or gradient is not finite are left out; at this many the stage stops."""
    validate_every: int = Field(default=200, ge=0)
    """Steps between two measurements on ``data.heldout`` (and one at the end); 0: never."""
    validate_conversations: int = Field(default=128, gt=0)
    hang_after_s: float = Field(default=900.0, gt=0)
    """A step that takes longer is taken for a hanging rank, which is then named."""
    seed: int = 0

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def accumulation(self) -> int:
        return self.global_batch // (self.micro_batch * self.world_size)

    @model_validator(mode="after")
    def _divides(self) -> TrainSection:
        ranks = self.micro_batch * self.world_size
        if self.global_batch % ranks:
            lower, upper = self.global_batch // ranks * ranks, (self.global_batch // ranks + 1) * ranks
            raise ValueError(
                f"global_batch {self.global_batch} does not divide by micro_batch {self.micro_batch} x "
                f"{self.world_size} ranks; "
                f"{' or '.join(str(n) for n in (lower, upper) if n)} would"
            )
        return self


class ConstraintSection(Section):
    backend: Literal["auto", "lm-format-enforcer", "llguidance"] = "auto"
    whitespace: Literal["canonical", "any"] = "canonical"
    on_unenforced: Literal["refuse", "validate"] = "refuse"
    formats: Literal["content", "all", "none"] = "content"
    """Where ``format`` (date, uuid, ...) is enforced: in ``response_format`` only, in arguments too, or nowhere."""
    undeclared: Literal["closed", "open"] = "closed"
    """Whether objects in arguments that declare properties and are silent on others may hold others."""
    cache_mb: int = Field(default=256, gt=0)
    """MiB for schemas seen before and their masks, in the engine's process; the least recently used go first."""
    enforce: bool = True
    """False: no masks and no validation, to measure what the constraint changes. Calls may then be illegal."""


class ServeSection(Section):
    engine: str = "vllm"
    """``vllm``, ``scripted`` or ``module:Class``."""
    model: str | None = None
    """Serve this folder or hub id in place of the run's own newest model."""
    host: str = "0.0.0.0"
    port: int = Field(default=8000, ge=0, le=65535)
    max_model_len: int = Field(default=8192, gt=0)
    tensor_parallel: int = Field(default=1, gt=0)
    replicas: int = Field(default=1, gt=0)
    """On a cluster: so many servers of the same model, each a task of an array; who measures spreads over them."""
    default_max_tokens: int = Field(default=2048, gt=0)
    max_concurrency: int = Field(default=256, gt=0)
    ready_timeout_s: float = Field(default=600, gt=0)
    request_timeout_s: float = Field(default=600, gt=0)
    drain_s: float = Field(default=30, ge=0)
    """How long requests may go on after SIGTERM or SIGUSR2."""
    idle_minutes: float | None = Field(default=None, ge=0)
    """After how long without a request the server drains and ends; 0: never. None: 60 as a Slurm job, else never."""
    max_body_mb: float = Field(default=16, gt=0)
    api_key_file: str | None = None
    model_names: Literal["any", "strict"] = "any"
    constraint: ConstraintSection = ConstraintSection()
    engine_args: dict[str, Any] = {}
    """Any field of vLLM's AsyncEngineArgs."""


class BfclSection(Section):
    """``categories`` maps a BFCL category to the number of entries to sample, or null for all."""

    categories: dict[str, int | None] = {"non_live": None, "live": None, "multi_turn": None}
    models: tuple[str, ...] = ("octupus-FC",)
    """Names under which the endpoint is measured; the last one gets the whole run, the others a small one."""
    side_entries: int = Field(default=4, gt=0)
    """Entries of each single-turn category for every model name but the last."""
    threads: int = Field(default=16, gt=0)
    temperature: float = 0.001
    retries: int = Field(default=2, ge=0)
    """How often entries that ended in an inference error are asked again."""
    heldout: int | None = None
    """How many held-out conversations exact-call accuracy is measured on; None for all."""
    seed: int = 0
    repeats: int = Field(default=1, gt=0)
    """How often everything is asked; each time but the first with a sampling seed of its own."""
    beside: tuple[str, ...] = ()
    """Measured runs that the report holds this one against, entry by entry; the first one is the baseline."""
    embedding_model: str | None = None
    """A local folder with all-MiniLM-L6-v2, which memory_vector needs."""
    url: str | None = None
    """Measure this OpenAI-compatible server in place of the run's own."""
    url_model: str | None = None
    """The name under which ``url`` serves the model; None: the first one that it lists."""


class BudgetSection(Section):
    """What a run may cost at most."""

    gpu_hours: float | None = Field(default=None, gt=0)
    """A plan that is likely to need more is refused, and nothing is started again beyond it; None: no limit."""


class Recipe(Section):
    """A whole suite: what to train, on what, how, and how to measure it."""

    name: str
    model: ModelSection
    wire: WireSection = WireSection()
    teacher: TeacherSection = TeacherSection()
    data: DataSection = DataSection()
    stage1: TrainSection = TrainSection()
    stage2: TrainSection = TrainSection()
    serve: ServeSection = ServeSection()
    bfcl: BfclSection = BfclSection()
    budget: BudgetSection = BudgetSection()


def load(name: str, overrides: Sequence[str] = (), *, folder: Path = RECIPES) -> Recipe:
    """Read ``<folder>/<name>.yaml``, apply ``path=value`` overrides (values are YAML) and validate.

    Raises:
        ConfigError: no such recipe, broken YAML, an unknown key (with the valid ones), a value of the wrong kind.
    """
    merged = _read(name, folder)
    parent = merged.pop("extends", None)
    if parent is not None:
        base = _read(parent, folder)
        if "extends" in base:
            raise ConfigError(f"recipe {name!r} extends {parent!r}, which extends another: only one level is allowed")
        merged = _merge(base, merged)
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign:
            raise ConfigError(f"SET: {override!r} is not path=value, for instance stage1.lr=1e-5")
        if path == "name":
            raise ConfigError("SET: a recipe's name is that of its file; for a run of another name give RUN=...")
        merged = _merge(merged, _nested(path.split("."), scalar(text, f"SET: {path}")))
    try:
        return Recipe.model_validate({**merged, "name": name})
    except ValidationError as error:
        raise ConfigError(explain(error, Recipe, f"recipe {name!r}")) from error


def scalar(text: str, where: str) -> Any:
    """The value that a command line spells.

    Raises:
        ConfigError: ``where`` holds no YAML.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {text!r} is not YAML (one with blanks needs quotation marks)") from error
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-5 as a string
        except ValueError:
            return value
    return value


def _read(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml") if p.stem != "lock"))
        raise ConfigError(f"no recipe {name!r}: {path} does not exist; choose one of: {known}")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(value).__name__}")
    return value


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return dict(value)
