"""What requests start from: plans and automata, shared by all requests and bounded in number and bytes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from octupus.config import ConstraintSection
from octupus.constrain.automaton import Automaton, State
from octupus.constrain.call import CallState
from octupus.constrain.figures import Figures
from octupus.constrain.grammar import Grammar
from octupus.constrain.guidance import Guidance, lark
from octupus.constrain.heap import Heap
from octupus.constrain.kept import Kept
from octupus.constrain.nodes import as_bytes, literals
from octupus.constrain.plan import Plan, compile_schema
from octupus.constrain.positions import Position
from octupus.constrain.schema import bounded
from octupus.constrain.sets import Shared
from octupus.constrain.vocabulary import Vocabulary
from octupus.constrain.warm import prepare, rehearse
from octupus.errors import ConstraintError
from octupus.wire.grammar import CallGrammar

Made = TypeVar("Made")
MAX_KEPT = 4096
"""Plans, and automata, whatever their size."""
PLANS_SHARE = 4
"""One part in so many of ``cache_mb`` is for plans, the rest for automata and their masks."""


class Constraint:
    """Compiles what requests ask for and keeps it. Thread-safe.

    Args:
        vocabulary: of the model that generates.
        options: the recipe's section ``serve.constraint``.
        figures: where to count; see :class:`Figures`.
        heap: of a process that serves; None: the garbage collector is left alone.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        options: ConstraintSection | None = None,
        figures: Figures | None = None,
        heap: Heap | None = None,
    ) -> None:
        self.vocabulary, self.options = vocabulary, options or ConstraintSection()
        self.figures, self._heap = figures or Figures(), heap
        self._shared = Shared(vocabulary, self.figures)
        room = self.options.cache_mb << 20
        self._plans: Kept[Plan | ConstraintError] = Kept(MAX_KEPT, room // PLANS_SHARE, _size)
        self._automata: Kept[Automaton] = Kept(
            MAX_KEPT, room - room // PLANS_SHARE, lambda automaton: automaton.size, Automaton.dismantle
        )
        self._guidance = Guidance.of(vocabulary)

    def set_up(self) -> Constraint:
        """Do now, in a second or two, what the first requests would else wait for; for who generates."""
        self.vocabulary.text(0)
        prepare(self._shared)
        if self.options.backend != "lm-format-enforcer" and self.vocabulary.encode is not None:
            self._guidance.tokenizer()
            self._guidance.keys.prepare()
        self._settle()
        return self

    def start(self, grammar: CallGrammar) -> CallState:
        """The state of a request that has generated nothing.

        Schemas are compiled when the answer comes to them, or in the background: ``CallState.prepare``.
        """
        return CallState(self.vocabulary, grammar, self, self.figures)

    def counts(self) -> dict[str, float]:
        """For metrics: see :data:`octupus.constrain.figures.NAMES`; and what the caches hold now."""
        return {**self.figures.read(), "plans": len(self._plans), "automata": len(self._automata)}

    def plan(self, schema: Any, *, arguments: bool = False) -> Plan:
        """How a schema is enforced; see :func:`compile_schema`."""
        bounded(schema)  # before anything goes down into it
        key = (_digest(schema), arguments)
        found = self._plans.get(key)
        if found is None:
            try:
                found = self._timed(lambda: compile_schema(schema, self.options, arguments=arguments))
            except ConstraintError as error:
                found = _alone(error)
            found = self._plans.put(key, found)
            self._settle()
        else:
            self.figures.add("hits")
        if isinstance(found, ConstraintError):
            self.figures.add("refusals")
            raise _alone(found)
        return found

    def _timed(self, make: Callable[[], Made]) -> Made:
        began = time.perf_counter()
        try:
            return make()
        finally:
            self.figures.add("compiles")
            self.figures.add("compile_seconds", time.perf_counter() - began)

    def _settle(self) -> None:
        if self._heap is not None:
            self._heap.settle()
        self.figures.set("cached_bytes", self._plans.bytes + self._automata.bytes)

    def literal(self, texts: tuple[str, ...]) -> State:
        """The start of a text that is one of ``texts``."""

        def make() -> Automaton:
            return Automaton(Grammar(literals(texts), "", "", self._shared, any_space=False), self._shared)

        return self._automaton(("literal", texts), make).start

    def json(self, schema: Any, head: str, tail: str, *, arguments: bool) -> Position:
        """The start of a value that obeys ``schema``, between two fixed texts."""
        plan = self.plan(schema, arguments=arguments)
        if plan.authority == "llguidance":
            return self._guidance.start(lark(plan.node, head, tail, self.options.whitespace))
        any_space = self.options.whitespace == "any"
        before, after = as_bytes(head), as_bytes(tail)

        def make() -> Automaton:
            grammar = Grammar(plan.node, before, after, self._shared, any_space=any_space)
            made = Automaton(grammar, self._shared, plan.normal)
            rehearse(made, self.vocabulary, plan.node, before, after)
            return made

        return self._automaton((plan, before, after), make).start

    def _automaton(self, key: object, make: Callable[[], Automaton]) -> Automaton:
        found = self._automata.get(key)
        if found is not None:
            self.figures.add("hits")
            return found
        made = self._automata.put(key, self._timed(make))
        self._settle()
        return made


def _alone(error: ConstraintError) -> ConstraintError:
    """An error like this one, without the frames that it came through."""
    return type(error)(error.reason, pointer=error.pointer, keyword=error.keyword)


def _size(plan: Plan | ConstraintError) -> int:
    return plan.size if isinstance(plan, Plan) else 1_000


def _digest(schema: Any) -> bytes:
    return hashlib.blake2b(json.dumps(schema).encode(), digest_size=16).digest()
