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
from octupus.constrain.automaton import Automaton, State
from octupus.constrain.call import CallState, Position
from octupus.constrain.grammar import Grammar
from octupus.constrain.guidance import Guidance, Place, Session, lark
from octupus.constrain.nodes import as_bytes, literals
from octupus.constrain.plan import Plan, compile_schema
from octupus.constrain.schema import bounded
from octupus.constrain.sets import Shared
from octupus.constrain.vocabulary import Vocabulary
from octupus.constrain.warm import prepare, rehearse
from octupus.errors import ConstraintError
from octupus.wire.grammar import CallGrammar

MAX_PLANS = 4096
MAX_AUTOMATA = 4096
MAX_BYTES = 512 << 20
"""Of all states and masks together."""
RECOUNT = 64
"""After so many new automata all are counted again."""


class Constraint:
    """Compiles what requests ask for and keeps it. Thread-safe.

    Args:
        vocabulary: of the model that generates.
        options: the recipe's section ``serve.constraint``.
    """

    def __init__(self, vocabulary: Vocabulary, options: ConstraintSection | None = None) -> None:
        self.vocabulary, self.options = vocabulary, options or ConstraintSection()
        self._shared = Shared(vocabulary)
        self._lock = threading.RLock()
        self._plans: OrderedDict[object, Plan | ConstraintError] = OrderedDict()
        self._automata: OrderedDict[object, Automaton] = OrderedDict()
        self._bytes = 0
        self._made = 0
        self._guidance = Guidance.of(vocabulary)
        self._totals = {"plan_hits": 0.0, "plan_misses": 0.0, "refusals": 0.0, "compile_seconds": 0.0}

    def set_up(self) -> Constraint:
        """Do now, in a second or two, what the first requests would else wait for; for who generates."""
        self.vocabulary.text(0)
        prepare(self._shared)
        if self.options.backend != "lm-format-enforcer" and self.vocabulary.encode is not None:
            self._guidance.tokenizer()
        return self

    def start(self, grammar: CallGrammar) -> CallState:
        """The state of a request that has generated nothing.

        Schemas are compiled when the answer comes to them, or in the background: ``CallState.prepare``.
        """
        return CallState(self.vocabulary, grammar, self)

    def counts(self) -> dict[str, float]:
        """For metrics: totals since the start, and what the caches hold now."""
        with self._lock:
            held = {"plans": len(self._plans), "automata": len(self._automata), "bytes": self._bytes}
        return {**self._totals, **held, "masks": self._shared.made, "mask_seconds": self._shared.seconds}

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

        def make() -> Automaton:
            return Automaton(Grammar(literals(texts), "", "", self._shared, any_space=False), self._shared)

        return self._automaton(("literal", texts), make).start

    def json(self, schema: Any, head: str, tail: str, *, arguments: bool) -> Position:
        """The start of a value that obeys ``schema``, between two fixed texts."""
        plan = self.plan(schema, arguments=arguments)
        if plan.authority == "llguidance":
            grammar = lark(plan.node, head, tail, self.options.whitespace)
            return Place(Session(self._guidance, self._guidance.matcher(grammar)))
        any_space = self.options.whitespace == "any"
        before, after = as_bytes(head), as_bytes(tail)

        def make() -> Automaton:
            made = Automaton(Grammar(plan.node, before, after, self._shared, any_space=any_space), self._shared)
            rehearse(made, self.vocabulary, plan.node, before, after)
            return made

        return self._automaton((plan, before, after), make).start

    def _automaton(self, key: object, make: Callable[[], Automaton]) -> Automaton:
        with self._lock:
            found = self._automata.get(key)
            if found is not None:
                self._automata.move_to_end(key)
                return found
        made = make()  # without the lock: others go on meanwhile
        with self._lock:
            self._automata[key] = made
            self._made += 1
            # What was made grows as it is used; looking at all of it every time would cost more than it saves.
            known = self._made % RECOUNT
            self._bytes = self._bytes + made.size if known else sum(a.size for a in self._automata.values())
            while len(self._automata) > 1 and (len(self._automata) > MAX_AUTOMATA or self._bytes > MAX_BYTES):
                _, oldest = self._automata.popitem(last=False)
                self._bytes -= oldest.size
        return made


def _digest(schema: Any) -> bytes:
    return hashlib.blake2b(json.dumps(schema).encode(), digest_size=16).digest()
