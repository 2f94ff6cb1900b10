"""Each quality gate catches its planted cases and spares good answers that resemble them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from octupus.config import GATES
from octupus.teacher.gates import Asked, judge
from octupus.teacher.protocol import Candidate

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "teacher"


def cases(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


def verdict(asked: str, said: str, finish: str = "stop", **more: object) -> str | None:
    return judge(Asked(asked, asked), Candidate(said, finish), **more)  # type: ignore[arg-type]


def test_every_gate_catches_its_ten_planted_cases() -> None:
    planted = cases("bad.jsonl")
    assert Counter(case["gate"] for case in planted) == dict.fromkeys(GATES, 10)
    for case in planted:
        found = verdict(case["asked"], case["said"], case["finish_reason"])
        assert found is not None and found.partition(": ")[0] == case["gate"], (case, found)


def test_two_hundred_good_answers_are_spared() -> None:
    good = cases("good.jsonl")
    assert len({case["asked"] for case in good}) == 200
    caught = {case["asked"]: found for case in good if (found := verdict(case["asked"], case["said"]))}
    assert not caught


def test_a_gate_can_be_left_out_and_what_the_user_wrote_is_no_leak() -> None:
    assert verdict("Hi", "I cannot help with that.", gates=()) is None
    assert verdict("Hi", "", gates=("refusal",)) is None
    assert verdict("what is <|im_end|>?", "<|im_end|> ends a turn") is None
    call = Candidate("", "stop", calls=({"name": "f", "arguments": "{}"},))
    assert judge(Asked("Hi"), call) is None, "a call needs no text"
