"""The user's turns in a teacher's words: blueprint -> wording, kept only where every argument can still be derived.

The replay is the judge: each value must be said or returned before it is used, so a wording that loses, changes or
blurs one scores below 1 and the template's wording stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from data_recipes.worlds.blueprint import Trajectory
from data_recipes.worlds.replay import judge

STYLES = (
    ("casual and short", "口语、简短"),
    ("polite and complete", "礼貌、完整"),
    ("hurried, as in a chat message", "匆忙，像聊天消息"),
    ("as somebody who explains why they ask", "顺带说明原因"),
)
ASK = (
    "Write what a user says to an assistant, in one or two sentences, {style}. Say exactly this, with every name, "
    "number, date, id and quoted text unchanged, and add no other wish. Answer with the user's words only.\n\n{text}",
    "请写出用户对助手说的话，一两句，风格：{style}。意思必须完全一致，所有姓名、数字、日期、编号和引号里的文字保持原样，"
    "不要增加别的要求。只回答用户的话。\n\n{text}",
)


def prompts(trajectory: Trajectory, candidate: int = 0) -> list[str]:
    """What to ask a teacher, turn by turn; candidates differ in style."""
    zh = trajectory.zh
    style = STYLES[(trajectory.seed + candidate) % len(STYLES)][zh]
    return [ASK[zh].format(style=style, text=turn.user) for turn in trajectory.turns]


def worded(trajectory: Trajectory, users: Sequence[str]) -> Trajectory:
    """The same trajectory with other user turns."""
    turns = (replace(turn, user=user.strip()) for turn, user in zip(trajectory.turns, users, strict=True))
    return replace(trajectory, turns=tuple(turns))


def best(trajectory: Trajectory, candidates: Sequence[Sequence[str]]) -> Trajectory:
    """The first candidate whose replay is right; turn by turn where none is, else the template's words."""
    found = trajectory
    for users in candidates:
        if len(users) != len(trajectory.turns):
            continue
        whole = worded(trajectory, users)
        if judge(whole.messages(), whole).right:
            return whole
        for number, user in enumerate(users):
            if found.turns[number].user == trajectory.turns[number].user:
                one = worded(found, [user if i == number else turn.user for i, turn in enumerate(found.turns)])
                found = one if judge(one.messages(), one).right else found
    return found


def phrased(trajectory: Trajectory, phrase: Callable[[str], str], candidates: int = 1) -> Trajectory:
    """With whatever answers prompts: best of ``candidates`` wordings."""
    return best(trajectory, [[phrase(p) for p in prompts(trajectory, number)] for number in range(candidates)])
