"""What requests start from: plans and automata, shared by all requests and bounded in number and bytes."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from octupus.config import ConstraintSection
from octupus.constrain.automaton import Automaton, Masks, State
from octupus.constrain.call import CallState, Position
from octupus.constrain.grammar import Grammar
from octupus.constrain.guidance import Guidance, Place, Session, lark
from octupus.constrain.nodes import literals
from octupus.constrain.plan import Plan, compile_schema
from octupus.constrain.schema import bounded
from octupus.constrain.vocabulary import Vocabulary
from octupus.errors import ConstraintError
from octupus.wire.grammar import CallGrammar

MAX_PLANS = 4096
MAX_AUTOMATA = 4096
MAX_BYTES = 512 << 20
"""Of all states and masks together."""


class Constraint:
    """Compiles what requests ask for and keeps it. Thread-safe.

    Args:
        vocabulary: of the model that generates.
        options: the recipe's section ``serve.constraint``.
    """

    def __init__(self, vocabulary: Vocabulary, options: ConstraintSection | None = None) -> None:
        self.vocabulary, self.options = vocabulary, options or ConstraintSection()
        self._masks = Masks()
        self._lock = threading.RLock()
        self._plans: OrderedDict[object, Plan | ConstraintError] = OrderedDict()
        self._automata: OrderedDict[object, Automaton] = OrderedDict()
        self._counted: dict[Automaton, int] = {}
        self._bytes = 0
        self._guidance: Guidance | None = None
        self._totals = {"plan_hits": 0.0, "plan_misses": 0.0, "refusals": 0.0, "compile_seconds": 0.0}
        # The two large tables: inside a string, and behind its opening quote. Else the first request would pay.
        vocabulary.string(vocabulary.trie)
        if (quote := vocabulary.trie.children.get(0x22)) is not None:
            vocabulary.string(quote)
        vocabulary.text(0)

    def check(self, grammar: CallGrammar) -> None:
        """Refuse a request that cannot be enforced, before it is generated.

        Raises:
            ConstraintError: the schema's pointer and keyword, behind the name of its function.
        """
        for function in grammar.functions:
            try:
                self.plan(function.parameters, arguments=True)
            except ConstraintError as error:
                where = f"function {function.name!r}, parameters: {error.reason}"
                raise ConstraintError(where, pointer=error.pointer, keyword=error.keyword) from error
        if grammar.content_schema is not None:
            self.plan(grammar.content_schema)

    def start(self, grammar: CallGrammar) -> CallState:
        """The state of a request that has generated nothing. Schemas are compiled when the answer comes to them."""
        return CallState(self.vocabulary, grammar, self)

    def counts(self) -> dict[str, float]:
        """For metrics: totals since the start, and what the caches hold now."""
        with self._lock:
            held = {"plans": len(self._plans), "automata": len(self._automata), "bytes": self._bytes}
        return {**self._totals, **held, "masks": self._masks.made, "mask_seconds": self._masks.seconds}

    def plan(self, schema: Any, *, arguments: bool = False) -> Plan:
        """How a schema is enforced; see :func:`compile_schema`."""
        bounded(schema)  # before anything goes down into it
        key = (_digest(schema), arguments)
        with self._lock:
            found = self._plans.get(key)
            self._totals["plan_hits" if found is not None else "plan_misses"] += 1
            if found is not None:
                self._plans.move_to_end(key)
        if found is None:
            began = time.perf_counter()
            try:
                found = compile_schema(schema, self.options, arguments=arguments)
            except ConstraintError as error:
                found = error
            with self._lock:
                self._totals["compile_seconds"] += time.perf_counter() - began
                self._plans[key] = found
                while len(self._plans) > MAX_PLANS:
                    self._plans.popitem(last=False)
        if isinstance(found, ConstraintError):
            self._totals["refusals"] += 1
            raise type(found)(found.reason, pointer=found.pointer, keyword=found.keyword)
        return found

    def literal(self, texts: tuple[str, ...]) -> State:
        """The start of a text that is one of ``texts``."""
        return self._automaton(("literal", texts), lambda: Grammar(literals(texts), "", "", any_space=False)).start

    def json(self, schema: Any, head: str, tail: str, *, arguments: bool) -> Position:
        """The start of a value that obeys ``schema``, between two fixed texts."""
        plan = self.plan(schema, arguments=arguments)
        if plan.authority == "llguidance":
            grammar = lark(plan.node, head, tail, self.options.whitespace)
            with self._lock:
                self._guidance = self._guidance or Guidance(self.vocabulary)
            return Place(Session(self._guidance, self._guidance.matcher(grammar)))
        any_space = self.options.whitespace == "any"
        texts = [text.encode().decode("latin-1") for text in (head, tail)]
        key = (plan, *texts)
        return self._automaton(key, lambda: Grammar(plan.node, texts[0], texts[1], any_space=any_space)).start

    def _automaton(self, key: object, make: Callable[[], Grammar]) -> Automaton:
        with self._lock:
            automaton = self._automata.pop(key, None) or Automaton(self.vocabulary, make(), self._masks)
            self._automata[key] = automaton
            # Its size is looked at when it is used: looking at all of them would cost more than it saves.
            self._bytes += automaton.size - self._counted.get(automaton, 0)
            self._counted[automaton] = automaton.size
            while len(self._automata) > 1 and (len(self._automata) > MAX_AUTOMATA or self._bytes > MAX_BYTES):
                _, oldest = self._automata.popitem(last=False)
                self._bytes -= self._counted.pop(oldest)
        return automaton


def _digest(schema: Any) -> bytes:
    return hashlib.blake2b(json.dumps(schema).encode(), digest_size=16).digest()
