"""What makes an answer unfit to train on; the first reason that holds is the one recorded."""

from __future__ import annotations

from octupus.teacher.protocol import Answer

MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<tool_call>", "[INST]")
"""Template tokens of common teachers; none belongs into an answer unless the user wrote it."""


def judge(asked: str, answer: Answer) -> str | None:
    """Why the answer to the user text ``asked`` must not be used, or None."""
    if answer.finish_reason == "refused":
        return f"prompt refused by the engine: {answer.refused}"
    if answer.finish_reason == "length":
        return "cut by length"
    said = answer.text.strip()
    if not said:
        return "empty"
    leaked = next((mark for mark in MARKS if mark in said and mark not in asked), None)
    if leaked is not None:
        return f"leaked template token: {leaked}"
    if said == asked.strip():
        return "repeats the prompt"
    return None
