"""The teacher stage: workers that answer, and what all of them came to.

Workers share a plan and claim its shards (claims.py); what they write is the ledger's (ledger.py). :func:`work` is one
of them; :func:`merge` follows when all have ended, says what is missing, and makes the source that stage 1 reads.
"""

from __future__ import annotations

import time
from typing import Any

from octupus.config import Recipe
from octupus.errors import DataError, JobError
from octupus.publish import publish_json, read_json
from octupus.runs import Run
from octupus.teacher import merged, page
from octupus.teacher.bench import POLL_S, Bench
from octupus.teacher.claims import Claims
from octupus.teacher.ledger import Ledger, totals
from octupus.teacher.plan import Plan, make_plan, planned
from octupus.teacher.protocol import engine_module, takes_tools
from octupus.teacher.talks import Talks

PLANNING = "plan"
"""The name of the claim that one worker holds while it makes the plan and looks the finished shards over."""


def work(recipe: Recipe, run: Run, worker: int = 0, place: str = "teacher") -> dict[str, Any]:
    """Answer what nobody has answered yet, shard by shard, until every shard is finished or in living hands.

    Args:
        recipe: its section ``teacher``.
        run: what comes back goes to its folder ``teacher``.
        worker: which of ``teacher.workers`` this is; they begin at different shards.
        place: where progress is reported, below the run folder.

    Returns counts of this worker's own rows.

    Raises:
        ConfigError: a recipe without prompts or with a teacher that does not exist.
        DataError: prompts that cannot be read, a full disk. JobError: the engine is lost.
    """
    section, stage = recipe.teacher, run.stage("teacher")
    module = engine_module(section)
    identity = module.identity(section)
    with Claims(stage.path / "claims") as claims:
        plan = _plan(recipe, run, identity, claims)
        ledger, share = Ledger(stage.path, plan), section.workers
        talks = Talks(section, {key: identity[key] for key in ("engine", "model")})
        with run.stage(place).reporting(plan.prompts / share, "answers") as reporter:
            reporter.update(ledger.finished() / share)
            bench = Bench(ledger, claims, reporter, worker * plan.shards // share)
            if bench.more():  # only then is an engine worth its start
                engine = module.open_engine(section)
                try:
                    bench.began = time.monotonic()
                    talks.answer(bench.draw, engine, bench.keep)
                finally:
                    engine.close()
                    bench.close(stage.path / "rates.jsonl", worker)
    print(f"teacher {worker}: {bench.rows} prompts done, {bench.reasons.total()} rejected {dict(bench.reasons) or ''}")
    return {"prompts": bench.rows, "rejects": dict(bench.reasons)}


def merge(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What the workers came to, as counts; ``teacher/merged`` and ``teacher/report.html`` are written.

    Raises:
        JobError: shards that nobody finished. DataError: damaged rows, or not one usable answer.
    """
    stage = run.stage("teacher")
    plan = planned(stage.path / "plan")
    if plan is None:
        raise JobError(f"no worker has made a plan yet; run: make teacher RUN={run.name}")
    ledger = Ledger(stage.path, plan)
    damaged = ledger.check()
    left = ledger.unfinished()
    if left:
        missing = sum(len(set(plan.ids(shard)) - ledger.known(shard)) for shard in left)
        told = f" ({'; '.join(damaged)})" if damaged else ""
        raise JobError(
            f"{missing} of {plan.prompts} prompts are not answered, in {len(left)} of {plan.shards} shards{told}; "
            "answers are kept, the same command goes on"
        )
    markers = {shard: ledger.marker(shard) or {} for shard in range(plan.shards)}
    answers, reasons, tokens = totals(markers)
    if answers + reasons.total() != plan.prompts:
        raise JobError(
            f"{answers} answers and {reasons.total()} rejects for {plan.prompts} prompts: a bug, please report"
        )
    print(f"teacher: {answers} answers, {reasons.total()} rejects of {plan.prompts} prompts; {dict(reasons) or ''}")
    if not answers:
        where = stage.path / "rejects"
        raise DataError(f"not one usable answer: {dict(reasons)}; look at {where}", source="teacher")
    merged.write(ledger, stage.path / "merged")
    counts = {
        "prompts": plan.prompts,
        "answers": answers,
        "rejects": dict(reasons),
        "not_prompts": plan.rejected,
        "tokens": tokens,
    }
    page.publish(stage.path / "report.html", counts, markers, recipe.teacher)
    return counts


def _plan(recipe: Recipe, run: Run, identity: dict[str, Any], claims: Claims) -> Plan:
    """The plan, made by one worker while the others wait; finished shards are looked over on the way."""
    folder = run.stage("teacher").path
    while (claim := claims.take(PLANNING)) is None:
        time.sleep(POLL_S)
    try:
        plan = make_plan(recipe.teacher, run, folder / "plan", identity, takes_tools(recipe.teacher))
        if read_json(folder / "answers-of.json") != plan.inputs:
            claims.revoke()
            Ledger(folder, plan).supersede()
            publish_json(folder / "answers-of.json", plan.inputs)
        for said in Ledger(folder, plan).check():
            print(f"teacher: {said}", flush=True)
    finally:
        claims.release(claim)
    return plan
