"""Tool conversations for stage 2 and the held-out splits, English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Literal

from data_recipes.demo import talk
from data_recipes.demo.tools import SEEN, UNSEEN, DemoTool, Request
from data_recipes.demo.values import make, pick, spoken

Split = Literal["train", "heldout", "unseen"]
Message = dict[str, Any]

KINDS = ("single", "multiple", "parallel", "followup", "nocall")
"""One tool on offer; several, one of them right; two calls at once; a second question after results; no tool fits."""
SHARES = {"single": 30, "multiple": 33, "parallel": 10, "followup": 12, "nocall": 15}
"""Out of a hundred conversations."""

FRAMES = (
    ("Please {}.", "Could you {}?", "I need you to {}.", "Can you {}, please?", "I want to {}.", "Hello, {}!", "{}."),
    ("请{}。", "麻烦{}。", "帮我{}。", "能不能{}？", "我想{}。", "你好，{}！", "{}。"),
)
BOTH = (("{} and {}", "{}, then {}", "{} and also {}"), ("{}，再{}", "{}，然后{}", "{}，还要{}"))
NEXT = (("Now {}.", "And {}, please.", "Then {}."), ("现在{}。", "再{}。", "然后{}。"))
SAME = (("The same for {}, please.", "And now for {}."), ("{}也一样。", "再给{}来一次。"))
NONE = (
    ("I have no tool for that.", "None of my tools can do that."),
    ("我没有能做这件事的工具。", "我的工具都做不了这件事。"),
)
"""Answers where no tool on offer fits."""


def _user(text: str) -> Message:
    return {"role": "user", "content": text[:1].upper() + text[1:]}


class Writer:
    """Writes one conversation; everything in it follows from the generator's state."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng, self.training, self.zh = rng, split == "train", rng.random() < 0.4
        self.tools = UNSEEN if split == "unseen" else SEEN
        self.messages: list[Message] = []
        self.offered: list[DemoTool] = []
        self.asked: list[Request] = []

    def write(self, kind: str) -> tuple[list[Message], list[dict[str, Any]]]:
        """Messages and tools in OpenAI's form (arguments as objects). Held-out ones end in the turn to be judged."""
        if kind == "nocall":
            self._nocall()
        else:
            wanted = [pick(self.rng, self.tools)]
            if kind == "parallel" and self.rng.random() < 0.4:
                wanted.append(pick(self.rng, self.tools))
            self._offer(wanted, at_least=2 + (self.rng.random() < 0.4) if kind in ("multiple", "followup") else 1)
            self._ask(wanted if len(wanted) > 1 or kind != "parallel" else wanted * 2, FRAMES)
            for _ in range(1 if kind == "followup" else int(self.rng.random() * 3) if self.training else 0):
                self._results()
                self._go_on()
            if self.training and self.rng.random() < 0.5:
                self._results()
        return self.messages, [tool.offer(self.zh) for tool in self.offered]

    def _offer(self, wanted: Sequence[DemoTool], at_least: int) -> None:
        """The wanted tools among others, shuffled."""
        self.offered = list(dict.fromkeys(wanted))
        while len(self.offered) < at_least:
            other = pick(self.rng, self.tools)
            if other not in self.offered:
                self.offered.append(other)
        self.rng.shuffle(self.offered)

    def _ask(self, wanted: Sequence[DemoTool], frames: Sequence[Sequence[str]]) -> None:
        """A user's request in words, and the calls that it asks for."""
        self.asked = [tool.request(self.rng, self.zh, self.training) for tool in wanted]
        words = self.asked[0].words
        for other in self.asked[1:]:
            words = pick(self.rng, BOTH[self.zh]).format(words, other.words)
        self._turn(pick(self.rng, frames[self.zh]).format(words))

    def _turn(self, text: str) -> None:
        first = sum(len(m.get("tool_calls", ())) for m in self.messages)
        calls = [
            {"id": f"call_{first + i}", "type": "function", "function": {"name": r.tool.name, "arguments": r.arguments}}
            for i, r in enumerate(self.asked)
        ]
        self.messages += [_user(text), {"role": "assistant", "content": "", "tool_calls": calls}]

    def _results(self) -> None:
        """What the tools returned, one turn each, and the text that tells it."""
        sentences = []
        for call, request in zip(self.messages[-1]["tool_calls"], self.asked, strict=True):
            values, sentence = request.tool.result(self.rng, self.zh)
            content = json.dumps(values, ensure_ascii=False)
            self.messages.append({"role": "tool", "content": content, "tool_call_id": call["id"]})
            sentences.append(sentence)
        self.messages.append({"role": "assistant", "content": ("" if self.zh else " ").join(sentences)})

    def _go_on(self) -> None:
        """A second question: another request to a tool on offer, or the same one for somebody else."""
        before = self.asked[0]
        subject, kind = next(iter(before.tool.args.items()))
        if kind == "small" or self.rng.random() < 0.6:
            return self._ask([pick(self.rng, self.offered)], NEXT)
        value = make(self.rng, kind, self.zh, self.training)
        self.asked = [Request(before.tool, "", before.arguments | {subject: value})]
        self._turn(pick(self.rng, SAME[self.zh]).format(spoken(value, kind, self.zh)))

    def _nocall(self) -> None:
        """A request that none of the tools on offer serves, or mere talk."""
        if self.training and self.rng.random() < 0.3:
            self._offer([], 1)
            self.messages = talk.turns(self.rng, self.zh)
            return
        absent = pick(self.rng, self.tools)
        self.tools = tuple(tool for tool in self.tools if tool.domain != absent.domain)
        self._offer([], 1 + (self.rng.random() < 0.5))
        asked = absent.request(self.rng, self.zh, self.training)
        question = _user(pick(self.rng, FRAMES[self.zh]).format(asked.words))
        self.messages = [question, {"role": "assistant", "content": pick(self.rng, NONE[self.zh])}]


def conversations(split: Split, seed: int, n: int) -> Iterator[dict[str, Any]]:
    """``n`` rows ``{"id", "kind", "split", "messages", "tools"}``; ``heldout`` is told as ``seen``.

    Held-out conversations share no argument value with training and have no two questions alike.
    """
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    for i in range(n):
        rng = Random(f"{seed}:{split}:{i}")
        kind = pick(rng, kinds)
        messages, tools = Writer(rng, split).write(kind)
        told = "seen" if split == "heldout" else split
        yield {"id": f"demo-{split}-{seed}-{i}", "kind": kind, "split": told, "messages": messages, "tools": tools}
