"""The graph of stages as data: what waits for what, what decides a stage's outputs, and what need not run again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal

from eval import weights
from octupus.config import Recipe, TeacherSection
from octupus.errors import ConfigError
from octupus.runs import Run


@dataclass(frozen=True)
class Step:
    """One stage of the chain."""

    name: str
    after: tuple[str, ...] = ()
    """Stages that must have succeeded before."""
    decided_by: tuple[str, ...] = ()
    """Paths into the recipe; with what decided the stages before, they decide the outputs."""
    beside: tuple[str, ...] = ()
    """Services that must be up while it runs, and that end with the last one who needs them."""
    service: bool = False
    takes_what_is_there: bool = False
    """Asked for by itself, it uses the newest checkpoint there is and starts no stage before it."""
    shows: tuple[str, ...] = ()
    """Folders whose progress is this stage's, where it is not its own."""
    array: Callable[[Recipe], Sequence[str]] | None = None
    """Its tasks, each a job of its own; one that fails stops no other, and a later step says what all came to.

    Of a service: its replicas. On one machine there is one.
    """
    after_any: bool = False
    """Starts when what it waits for has ended, well or not; it finds out itself what there is."""
    keeps: bool = False
    """Knows by itself which of its results other inputs have made stale: they are not put aside."""
    leaves: tuple[str, ...] = ()
    """Files of its own outside its folder; they go when its results are put aside."""
    wanted: Callable[[Recipe], bool] = field(default=lambda recipe: True)
    """Whether it is a part of the whole chain."""
    possible: Callable[[Recipe], bool] = field(default=lambda recipe: False)
    """Whether it can be asked for by name where the whole chain does without it."""


def teacher_is_read(recipe: Recipe) -> bool:
    """Whether a data stage reads what the run's own teacher answers."""
    sources = (*recipe.data.stage1.sources, *recipe.data.stage2.sources)
    return any(s.name == "teacher_answers" or s.options.get("variant") == "worded" for s in sources)


def has_prompts(recipe: Recipe) -> bool:
    return bool(recipe.teacher.prompts)


TAUGHT = tuple(f"teacher.{name}" for name in TeacherSection.model_fields if name not in ("workers", "tokens_per_s"))
CLOSED_BY = {"teacher": "merge", "bfcl": "score"}
"""What says what the tasks of an array came to: asked for together with it."""

SERVED = (
    "serve.engine",
    "serve.model",
    "serve.max_model_len",
    "serve.default_max_tokens",
    "serve.constraint",
    "serve.engine_args",
)

CHAIN: tuple[Step, ...] = (
    Step("surgery", decided_by=("model", "wire")),
    Step(
        "teacher",
        decided_by=TAUGHT,
        array=lambda recipe: [f"worker{i}" for i in range(recipe.teacher.workers)],
        keeps=True,
        wanted=teacher_is_read,
        possible=has_prompts,
    ),
    Step("merge", after=("teacher",), after_any=True, wanted=teacher_is_read, possible=has_prompts),
    Step("data", after=("surgery", "merge"), decided_by=("data",)),
    Step(
        "baseline",
        after=("surgery", "data"),
        decided_by=(*SERVED, "bfcl.heldout"),
        shows=("heldout",),
        leaves=("heldout/before.json",),
        wanted=lambda recipe: bool(recipe.data.heldout),
    ),
    Step("stage1", after=("surgery", "data"), decided_by=("stage1",)),
    Step("stage2", after=("data", "stage1"), decided_by=("stage2",)),
    Step(
        "serve",
        after=("stage2",),
        service=True,
        takes_what_is_there=True,
        array=lambda recipe: [f"replica{i}" for i in range(recipe.serve.replicas)] if recipe.serve.replicas > 1 else [],
    ),
    Step(
        "bfcl",
        after=("stage2",),
        decided_by=(*SERVED, "bfcl"),
        beside=("serve",),
        shows=("heldout",),
        array=lambda recipe: [*(["heldout"] if recipe.data.heldout else []), *weights.tasks(recipe.bfcl.categories)],
        leaves=("heldout/after.json",),
        takes_what_is_there=True,
        keeps=True,
    ),
    Step("score", after=("bfcl",), after_any=True, takes_what_is_there=True),
    Step("report", after=("baseline", "score"), takes_what_is_there=True),
)


@dataclass(frozen=True)
class Planned:
    """A step with what is to be done about it, and why."""

    step: Step
    inputs: str
    action: Literal["run", "reuse", "link"]
    """``link``: Slurm is at work on it; what waits for it is linked to its job."""
    why: str = ""
    discard: bool = False
    """Its folder holds the results of other inputs (or is to be made anew): it is put aside first."""

    @property
    def name(self) -> str:
        return self.step.name


def chain_of(recipe: Recipe, steps: Sequence[Step] = CHAIN, asked: Collection[str] = ()) -> tuple[Step, ...]:
    """The steps that this recipe has, with waiting only for steps that it has.

    A step that only ``asked`` brings in is waited for by none of the others: what they make does not depend on it.
    """
    wanted = {step.name for step in steps if step.wanted(recipe)}
    extra = {step.name for step in steps if step.name in asked and step.possible(recipe)} - wanted
    kept = [step for step in steps if step.name in wanted | extra]
    names = {step.name: wanted | extra if step.name in extra else wanted for step in kept}
    return tuple(replace(step, after=tuple(n for n in step.after if n in names[step.name])) for step in kept)


def input_hashes(recipe: Recipe, steps: Sequence[Step]) -> dict[str, str]:
    """For each step a hash over everything in the recipe that decides its outputs."""
    # What stands at its default is left out: a recipe section that gains a field does not make old results stale.
    values, hashes = recipe.model_dump(mode="json", exclude_defaults=True), dict[str, str]()
    for step in steps:
        mine = {path: reduce(lambda at, key: at.get(key, {}), path.split("."), values) for path in step.decided_by}
        before = {name: hashes[name] for name in step.after}
        text = json.dumps([step.name, mine, before], sort_keys=True, ensure_ascii=False)
        hashes[step.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return hashes


def upstream(goals: Collection[str], steps: Sequence[Step]) -> list[Step]:
    """The goals and every step that they wait for, in order; what takes what is there brings its server only."""
    by_name, wanted = {step.name: step for step in steps}, set(goals)
    for step in reversed(steps):
        if step.name in wanted:
            wanted.update(step.beside if step.takes_what_is_there else (*step.after, *step.beside))
    return [by_name[step.name] for step in steps if step.name in wanted]


def downstream(goals: Collection[str], steps: Sequence[Step]) -> set[str]:
    """The goals and every step that waits for one of them."""
    found = set(goals)
    for step in steps:
        if found & {*step.after}:
            found.add(step.name)
    return found


def plan(
    recipe: Recipe,
    run: Run,
    goals: Collection[str] | None = None,
    *,
    fresh: bool = False,
    steps: Sequence[Step] = CHAIN,
) -> list[Planned]:
    """What to do for ``goals`` (None: the whole chain), in an order in which it can be done one after the other.

    Raises:
        ConfigError: a stage that the recipe does not have; a teacher that nobody asked for and that has not run.
    """
    mine = chain_of(recipe, steps, goals or ())
    names = [step.name for step in mine]
    unknown = sorted(set(goals or ()) - set(names))
    if unknown:
        raise ConfigError(f"recipe {recipe.name!r} has no stage {', '.join(unknown)}; it has: {', '.join(names)}")
    chosen = list(mine) if goals is None else upstream(goals, mine)
    hashes = input_hashes(recipe, mine)
    anew = (
        {step.name for step in mine} if fresh and goals is None else downstream(goals or (), mine) if fresh else set()
    )
    planned = list[Planned]()
    for step in chosen:
        p = _decide(step, run, hashes[step.name], step.name in anew)
        ran = [b for b in planned if b.action == "run" and (b.step.array or b.step.after_any)]
        stale = [before.name for before in ran if before.name in step.after]
        if p.action == "reuse" and stale:
            p = replace(p, action="run", why=f"{stale[0]} is run before it")
        planned.append(p)
    asked = goals is None or "teacher" in goals
    for p in planned:
        if p.name == "teacher" and p.action == "run" and not asked:
            raise ConfigError(
                f"the data of recipe {recipe.name!r} need the teacher's answers, and the teacher runs only when asked: "
                f"make teacher RECIPE={recipe.name}, or the whole chain with make all RECIPE={recipe.name}"
            )
    needed = {name for p in planned if p.action == "run" for name in p.step.beside} | set(goals or ())
    return [p for p in planned if not p.step.service or p.name in needed]


def _decide(step: Step, run: Run, inputs: str, anew: bool) -> Planned:
    state = run.stage(step.name).state()
    if step.service:
        return Planned(step, inputs, "run")
    if anew:
        return Planned(step, inputs, "run", "asked for anew (FRESH=1)", discard=True)
    if state is None:
        return Planned(step, inputs, "run")
    if state.inputs != inputs:
        return Planned(step, inputs, "run", "its inputs have changed", discard=not step.keeps)
    if state.status != "done":
        return Planned(step, inputs, "run", "goes on from where it stopped")
    return Planned(step, inputs, "reuse", "done before with the same inputs")


def put_aside(run: Run, step: Step) -> None:
    """Move what a stage made out of the way, to ``<stage>.replaced``; only the last such folder is kept."""
    folder, aside = run.path / step.name, run.path / f"{step.name}.replaced"
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    for name in step.leaves:
        (run.path / name).unlink(missing_ok=True)


def ranks_of(recipe: Recipe, stage: str) -> tuple[int, int]:
    """Nodes and processes a node of a stage."""
    sections = {"stage1": recipe.stage1, "stage2": recipe.stage2}
    return (sections[stage].nodes, sections[stage].ranks_per_node) if stage in sections else (1, 1)


def tasks_of(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The tasks that a stage is dealt to on a cluster, each a job of its own; none where it is one job."""
    array = next((step.array for step in CHAIN if step.name == stage), None)
    return () if array is None else tuple(array(recipe))


def gpus_of(recipe: Recipe, stage: str) -> int:
    """GPUs a node that a stage uses where the cluster has any."""
    args = recipe.teacher.engine_args
    teaching = {
        "vllm": args.get("tensor_parallel_size", 1),
        "server": (args.get("serve") or {}).get("tensor_parallel", 1),
    }
    teacher = teaching.get(recipe.teacher.engine, 0)
    serving = recipe.serve.tensor_parallel
    used = {"serve": serving, "baseline": serving, "teacher": int(teacher)}
    return ranks_of(recipe, stage)[1] if stage in ("stage1", "stage2") else used.get(stage, 0)
