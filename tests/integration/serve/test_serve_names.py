"""Inside vLLM's EngineCore a call's schema is compiled when its name leaves no choice, and no other schema is."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from octupus.constrain import Vocabulary
from octupus.wire import CallGrammar, Tool, ToolChoice
from tests.support.tiny import tiny_wire

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")


def compiled_after(names: list[str], answer: list[int | str]) -> list[tuple[int, str]]:
    """After which place of the answer (special ids, and texts a character at a time) which function was compiled."""
    from octupus.serve.engine import Names

    wire, found = tiny_wire(), list[tuple[int, str]]()
    tools = [Tool(raw={"type": "function", "function": {"name": name}}) for name in names]
    grammar = wire.grammar(tools, ToolChoice(mode="required"))
    place = 0

    def compile(one: CallGrammar) -> None:
        found.append((place, one.functions[0].name))

    watching = Names(grammar, Vocabulary.from_tokenizer(wire.tokenizer), compile)
    for part in answer:
        ids = [part] if isinstance(part, int) else [id for c in part for id in wire.tokenizer.encode(c)]
        for id in ids:
            watching.accept(id)
            place += 1
    return found


def test_one_schema_is_compiled_and_as_soon_as_it_can_be_known() -> None:
    frame = tiny_wire().frame
    opens, after = frame.call_open, frame.separator
    assert isinstance(after, int)
    names = ["get", "get_more", "set"]
    assert compiled_after(names, [opens, "s"]) == [(1, "set")]
    assert compiled_after(names, [opens, "g"]) == []
    # "get" may be the whole name, and is made ready; when it goes on, it was another.
    assert compiled_after(names, [opens, "get_m"]) == [(3, "get"), (4, "get_more")]
    # Arguments are no names, and what is known is not compiled again.
    call: list[int | str] = [opens, "set", after, "get", opens, "set", after]
    assert compiled_after(names, call) == [(1, "set")]
    assert compiled_after(["only"], [opens]) == [(0, "only")]
    assert compiled_after(names, ["set"]) == []
