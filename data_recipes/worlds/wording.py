"""What users and assistants say, English and Chinese, from templates; no model is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from data_recipes.worlds.goals import Goal
from data_recipes.worlds.kinds import Choice, Many, listed
from data_recipes.worlds.world import Param, World

Pair = tuple[Sequence[str], Sequence[str]]

FRAMES: Pair = (
    (
        "Please {}.",
        "Could you {}?",
        "{}, please.",
        "I want you to {}.",
        "Can you {} for me?",
        "I'd like you to {}.",
        "{}.",
        "Next, {}.",
        "Would you {}?",
        "Hi, {}, thanks.",
    ),
    (
        "请{}。",
        "麻烦{}。",
        "帮我{}。",
        "能不能{}？",
        "我想请你{}。",
        "{}。",
        "接下来{}。",
        "你好，{}，谢谢。",
        "劳驾{}。",
    ),
)
AND: Pair = ((", and ", ", and also ", "; also, "), ("，另外", "，还要", "；同时"))
THEN: Pair = ((", then ", ", and after that ", ", and once that is done "), ("，然后", "，之后", "，办好以后再"))
THANKS: Pair = (
    (
        "Thanks, that helps.",
        "Great, thank you!",
        "Perfect, thanks a lot.",
        "Good. One moment, I have to take a call.",
        "All right, I will come back to you.",
    ),
    ("谢谢，帮大忙了。", "太好了，谢谢！", "很好，多谢。", "好的，我先接个电话。", "行，我一会儿再找你。"),
)
WELCOME: Pair = (
    ("You are welcome.", "Glad to help. Just tell me when there is more to do.", "Any time.", "All right."),
    ("不客气。", "很高兴能帮上忙，有需要再告诉我。", "随时为您效劳。", "好的。"),
)
RECALL: Pair = (
    ("What was the id of {} again?", "Remind me: which id does {} have?"),
    ("{}的编号是多少来着？", "再告诉我一下{}的编号。"),
)
RECALLED: Pair = (("The id of {} is {}.",), ("{}的编号是{}。",))
REFUSALS: Pair = (
    (
        "I have no function that can do this.",
        "None of the functions on offer does that, so I cannot carry it out.",
        "That is not possible with the functions that I have.",
        "I lack a function for this request; with one, I would gladly do it.",
    ),
    (
        "我没有能完成这件事的函数。",
        "现有的函数都做不到，所以我无法执行。",
        "凭我手头的函数办不到这件事。",
        "缺少对应的函数；如果提供了，我很乐意照办。",
    ),
)
JOINED: Pair = (
    (
        "There are more functions on your list now; try again.",
        "A function was added for you. Please go on with what I asked.",
        "You should be able to do it now, have another look at your functions.",
        "The missing function is available from now on. Go ahead.",
    ),
    (
        "你的函数列表增加了，请再试一次。",
        "已经给你添加了函数，请继续刚才的请求。",
        "现在应该可以了，再看看你的函数。",
        "缺的函数现在有了，请继续。",
    ),
)
WHICH: Pair = (
    ("Which {} should it be?", "I still need the {}. What is it?", "Please tell me the {} first."),
    ("请问{}是什么？", "我还需要{}，请告诉我。", "请先告诉我{}。"),
)
GIVEN: Pair = (
    ("{}.", "The {1}: {0}.", "It is {}.", "Sorry, I forgot: {}."),
    ("{}。", "{1}：{0}。", "是{}。", "忘了说了，{}。"),
)
VAGUE: Pair = (("a certain {}", "some {}", "the right {}"), ("某个{}", "相应的{}", "那个{}"))
INSTEAD: Pair = (
    (
        "Sorry, I misspoke: make the {} {} instead.",
        "Wait, the {} has to be {}. Please correct that.",
        "On second thought, the {} should be {}.",
    ),
    ("抱歉我说错了，{}应该是{}。", "等一下，{}要改成{}，请更正。", "再想想，{}还是用{}吧。"),
)
SLIP: Pair = (("{}, no, sorry, {}", "{}, or rather {}"), ("{}，不对，是{}", "{}，哦不，{}"))
CANNOT: Pair = (
    ("That did not work: {}", "I could not do it. The answer was: {}", "It was refused: {}"),
    ("没有成功：{}", "办不了，系统提示：{}", "被拒绝了：{}"),
)
WHATEVER: Pair = (
    ("If something stands in the way, clear it first.", "Do whatever has to be done before it."),
    ("如果有什么妨碍，请先处理掉。", "需要先做什么就先做。"),
)
NOTHING: Mapping[str, str] = {}
CLAUSE = ("with the {} {}", "{}为{}")
NEW = ("the new {}", "新的{}")


def pick(pair: Pair, zh: bool, rng: Random) -> str:
    choices = pair[zh]
    return choices[int(rng.random() * len(choices))]


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


class Speaker:
    """Puts goals into a user's words and outcomes into an assistant's, in one language."""

    def __init__(self, zh: bool, rng: Random) -> None:
        self.zh, self.rng = zh, rng

    def pick(self, pair: Pair) -> str:
        return pick(pair, self.zh, self.rng)

    def wish(self, world: World, goal: Goal, say: Mapping[str, str], instead: Mapping[str, str] = NOTHING) -> str:
        """What the user wants, as an imperative without its end.

        Args:
            world: whose tables name what ids stand for.
            goal: the call that is wanted.
            say: the words for each id.
            instead: other words for some parameters.
        """
        assert goal.method.ask is not None
        template = self.rng.choice(goal.method.ask[self.zh].split("|"))
        words = {
            name: instead[name] if name in instead else self.value(goal.method.param(name), value, say)
            for name, value in goal.arguments.items()
        }
        text = template.format_map(words)
        for name, value in words.items():
            if "{" + name + "}" not in template:
                label = self.label(goal.method.param(name), world)
                text += ("，" if self.zh else ", ") + CLAUSE[self.zh].format(label, value)
        return text

    def value(self, param: Param, value: Any, say: Mapping[str, str]) -> str:
        if param.refs is not None:
            return listed([say[id] for id in (value if isinstance(value, list) else [value])], self.zh)
        return param.kind.say(value, self.zh, self.rng)

    def vague(self, param: Param, world: World) -> str:
        return self.pick(VAGUE).format(self.label(param, world))

    def label(self, param: Param, world: World) -> str:
        if param.refs is not None and not isinstance(param.kind, Many) and param.name == f"{param.refs.table}_id":
            return world.TABLES[param.refs.table].label(self.zh)
        return param.kind.label(self.zh)

    def request(self, wishes: Sequence[str], then: Sequence[bool]) -> str:
        """The user's turn; ``then`` says which wishes wait for the one before."""
        text = wishes[0]
        for wish, after in zip(wishes[1:], then, strict=True):
            text += self.pick(THEN if after else AND) + wish
        return sentence(self.pick(FRAMES).format(text))

    def told(self, goal: Goal, say: Mapping[str, str]) -> str:
        """What the assistant reports of a goal."""
        if goal.error is not None:
            return self.pick(CANNOT).format(goal.error.text)
        assert goal.method.tell is not None

        def fill(match: re.Match[str]) -> str:
            head, _, path = match[1].partition(".")
            if head == "r":
                return self._result(goal, path.split("."))
            return self.value(goal.method.param(head), goal.arguments[head], say)

        return sentence(re.sub(r"\{([\w.]+)\}", fill, goal.method.tell[self.zh]))

    def _result(self, goal: Goal, path: Sequence[str]) -> str:
        value: Any = goal.result
        for step in path:
            value = [row[step] for row in value] if isinstance(value, list) else value[step]
        parts = value if isinstance(value, list) else [value]
        return listed([self._plain(part) for part in parts], self.zh)

    def _plain(self, value: Any) -> str:
        if value is None:
            return "无" if self.zh else "none"
        if isinstance(value, bool):
            return ("否", "是")[value] if self.zh else ("no", "yes")[value]
        return f"{value:g}" if isinstance(value, float) else str(value)

    def report(self, goals: Sequence[Goal], say: Mapping[str, str]) -> str:
        return ("" if self.zh else " ").join(self.told(goal, say) for goal in goals)


def open_params(goal: Goal) -> list[Param]:
    """The parameters whose value a user could leave out or get wrong: those that the sentence makes sense without."""
    named = [p for p in goal.method.params if p.required and "{" + p.name + "}" in (goal.method.ask or ("",))[0]]
    return [p for p in named if not isinstance(p.kind, Choice) and p.type != "boolean"]
