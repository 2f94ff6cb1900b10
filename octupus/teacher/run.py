"""The teacher stage: every prompt answered once, whatever happens in between.

``teacher/plan`` says what is asked, ``teacher/answers/<shard>.jsonl`` holds what came back (one conversation a row),
``teacher/rejects/<shard>.jsonl`` what must not be used, with the reason. A prompt is done when its id is in either.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from octupus.config import Recipe
from octupus.data.appended import AppendedFile, appended, count
from octupus.errors import DataError
from octupus.runs import Reporter, Run, publish_json, read_json
from octupus.teacher.gates import judge
from octupus.teacher.plan import Plan, Prompt, make_plan
from octupus.teacher.protocol import Answer, Engine, Request, engine_module


def run(recipe: Recipe, run: Run, shards: Sequence[int] | None = None) -> dict[str, Any]:
    """Answer the prompts of ``recipe.teacher``; goes on where an earlier call stopped. Returns counts.

    Args:
        recipe: its section ``teacher``.
        run: answers go to its folder ``teacher``.
        shards: the shards to work on (one worker of several); None for all.

    Raises:
        ConfigError: a recipe without prompts or with a teacher that does not exist.
        DataError: prompts that cannot be read, a full disk. JobError: the engine is lost.
    """
    section, stage = recipe.teacher, run.stage("teacher")
    module = engine_module(section)
    identity = module.identity(section)
    plan = _current_plan(recipe, run, identity)
    work = _Work(stage.path, plan, {k: identity[k] for k in ("engine", "model")}, section.sampling.seed)
    with stage.reporting(plan.prompts, "answers") as reporter:
        reporter.update(count(stage.path / "answers") + count(stage.path / "rejects"))
        waiting = work.prompts(range(plan.shards) if shards is None else shards)
        first = next(waiting, None)
        if first is not None:  # only then is an engine worth its start
            engine = module.open_engine(section)
            try:
                work.answer(chain([first], waiting), engine, reporter)
            finally:
                engine.close()
                work.close()
    rejects = Counter(row["reason"].partition(": ")[0] for row in appended(stage.path / "rejects"))
    answered = count(stage.path / "answers")
    print(f"teacher: {answered} answers, {rejects.total()} rejects of {plan.prompts} prompts; {dict(rejects) or ''}")
    if not answered:
        raise DataError(f"not one usable answer: {dict(rejects)}; look at {stage.path / 'rejects'}", source="teacher")
    return {"prompts": plan.prompts, "answers": answered, "rejects": dict(rejects), "not_prompts": plan.rejected}


def _current_plan(recipe: Recipe, run: Run, identity: dict[str, Any]) -> Plan:
    """The plan; answers of another plan are set aside, and those whose id is still asked are taken over."""
    path = run.stage("teacher").path
    plan = make_plan(recipe.teacher, run, path / "plan", identity)
    if read_json(path / "answers-of.json") != plan.inputs:
        aside = path / "superseded"
        aside.mkdir(parents=True, exist_ok=True)
        for kind in ("answers", "rejects"):
            if (path / kind).is_dir():
                (path / kind).rename(aside / f"{kind}-{len(list(aside.iterdir()))}")
        if any(aside.iterdir()):
            _take_over(path, plan)
        publish_json(path / "answers-of.json", plan.inputs)
    return plan


def _take_over(path: Path, plan: Plan) -> None:
    shard_of = {prompt.id: shard for shard in range(plan.shards) for prompt in plan.shard(shard)}
    files: dict[tuple[str, int], AppendedFile] = {}
    for old in appended(path / "superseded"):
        shard = shard_of.pop(old["id"], None)
        if shard is not None:
            kind = "rejects" if "reason" in old else "answers"
            if (kind, shard) not in files:
                files[kind, shard] = AppendedFile(path / kind / f"{shard:05d}.jsonl")
            files[kind, shard].append(old)
    for file in files.values():
        file.close()


class _Shard:
    """A shard's two files, and how many of its prompts are in neither."""

    def __init__(self, path: Path, plan: Plan, number: int) -> None:
        prompts = plan.shard(number)
        self.order = [prompt.id for prompt in prompts]
        self.answers = AppendedFile(path / "answers" / plan.file(number).name)
        self.rejects = AppendedFile(path / "rejects" / plan.file(number).name)
        damaged = self.answers.damaged + self.rejects.damaged
        if damaged:
            print(f"teacher: shard {number}: {damaged} damaged rows dropped; they are asked again")
        self.missing = [p for p in prompts if p.id not in self.answers.ids and p.id not in self.rejects.ids]
        self.left = len(self.missing)

    def close(self) -> None:
        for file in (self.answers, self.rejects):
            if self.left:
                file.close()
            else:
                file.finish(self.order)


@dataclass
class _Talk:
    """A prompt on its way: the messages so far, and which of the user's turns is being answered."""

    prompt: Prompt
    shard: int
    messages: list[dict[str, str]]
    turn: int = 0
    tokens: int = 0


@dataclass
class _Work:
    path: Path
    plan: Plan
    label: dict[str, str]
    seed: int
    shards: dict[int, _Shard] = field(default_factory=dict)

    def prompts(self, numbers: Iterable[int]) -> Iterator[tuple[int, Prompt]]:
        """What is left to ask, shard by shard; a shard is opened when its turn comes."""
        for number in numbers:
            self.shards[number] = shard = _Shard(self.path, self.plan, number)
            if shard.left:
                yield from ((number, prompt) for prompt in shard.missing)
            else:
                self._close(number)

    def _close(self, number: int) -> None:
        self.shards.pop(number).close()

    def close(self) -> None:
        for number in list(self.shards):
            self._close(number)

    def answer(self, waiting: Iterator[tuple[int, Prompt]], engine: Engine, reporter: Reporter) -> None:
        """Keep the engine full, over the ends of shards, until every prompt is done."""
        talks: dict[str, _Talk] = {}
        while True:
            while len(talks) < engine.capacity and (item := next(waiting, None)) is not None:
                number, prompt = item
                first = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
                talks[prompt.id] = _Talk(prompt, number, first)
                self._ask(talks[prompt.id], engine)
            if not talks:
                return
            for answer in engine.step():
                talk = talks[answer.id]
                if self._take(talk, answer):
                    del talks[answer.id]
                    reporter.advance()
                else:
                    self._ask(talk, engine)

    def _ask(self, talk: _Talk, engine: Engine) -> None:
        talk.messages.append({"role": "user", "content": talk.prompt.users[talk.turn]})
        seed = hashlib.sha256(f"{talk.prompt.id} {talk.turn} {self.seed}".encode()).digest()
        engine.submit(Request(talk.prompt.id, talk.messages, int.from_bytes(seed[:4])))

    def _take(self, talk: _Talk, answer: Answer) -> bool:
        """Judge and keep an answer; whether the prompt is done with it."""
        prompt = talk.prompt
        reason = judge(prompt.users[talk.turn], answer)
        talk.messages.append({"role": "assistant", "content": answer.text})
        talk.tokens += answer.tokens
        talk.turn += 1
        if reason is None and talk.turn < len(prompt.users):
            return False
        row: dict[str, Any] = {
            "id": prompt.id,
            "messages": talk.messages,
            "finish_reason": answer.finish_reason,
            "tokens": talk.tokens,
            "teacher": self.label,
            "source": prompt.source,
            "row": prompt.row,
        }
        shard = self.shards[talk.shard]
        if reason is None:
            shard.answers.append(row)
        else:
            shard.rejects.append({**row, "reason": reason})
        shard.left -= 1
        if not shard.left:
            self._close(talk.shard)
        return True
