"""What several property tests of the wire format check."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, settings

from octupus.wire import ArgumentsDelta, CallEnd, CallStart, ContentDelta, Message, TurnEnd, Wire


def examples(count: int) -> Any:
    """So many, the same ones on every run, and no deadline on a busy machine."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=quiet)


def check_one_turn_in_any_chunks(wire: Wire, ids: list[int], answer: Message, seed: int) -> None:
    """The events tell the answer, however the ids are cut."""
    rng = random.Random(seed)
    one, all_at_once, pieces = wire.parser(), wire.parser(), wire.parser()
    events = all_at_once.feed(ids) + all_at_once.finish()
    assert [e for id in ids for e in one.feed([id])] + one.finish() == events
    at, in_pieces = 0, []
    while at < len(ids):
        step = rng.randrange(1, 6)
        in_pieces += pieces.feed(ids[at : at + step])
        at += step
    assert in_pieces + pieces.finish() == events
    assert collected(events) == (answer.content, [(c.name, c.arguments_text) for c in answer.tool_calls])


def collected(events: list[Any]) -> tuple[str, list[tuple[str, str]]]:
    content = "".join(e.text for e in events if isinstance(e, ContentDelta))
    starts = [e for e in events if isinstance(e, CallStart)]
    deltas = [e for e in events if isinstance(e, ArgumentsDelta)]
    assert [s.index for s in starts] == list(range(len(starts)))
    assert sum(isinstance(e, CallEnd) for e in events) == len(starts)
    assert isinstance(events[-1], TurnEnd)
    return content, [(s.name, "".join(d.text for d in deltas if d.index == s.index)) for s in starts]


def encoded(tokenizer: Any, messages: Any, tools: Any, prompt: bool) -> list[int]:
    """As transformers encodes a conversation with the tokenizer's own template."""
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=False, enable_thinking=False
    )
    return ids
