"""This project's constraint and its peers behind one face: compile, fill a mask, accept a token."""

from __future__ import annotations

import copy
import json
from typing import Any, Protocol

import llguidance
import numpy as np
import xgrammar
from llguidance import LLMatcher, LLTokenizer

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Heap, Vocabulary
from octupus.constrain.guidance import Guidance

Row = np.ndarray[Any, np.dtype[np.int32]]


class Engine(Protocol):
    name: str

    def forget(self) -> None:
        """As if no schema had been seen."""
        ...

    def start(self, schema: dict[str, Any]) -> Matcher:
        """Compile, if this schema has not been seen, and begin an answer."""
        ...


class Matcher(Protocol):
    def fill(self, row: Row) -> None: ...

    def accept(self, token: int) -> bool: ...

    def ended(self) -> bool: ...


class Ours:
    def __init__(self, vocabulary: Vocabulary, backend: str) -> None:
        self.name = "octupus" if backend == "lm-format-enforcer" else f"octupus ({backend})"
        self.vocabulary, self.options = vocabulary, ConstraintSection(backend=backend, on_unenforced="validate")  # type: ignore[arg-type]
        self.constraint = Constraint(vocabulary, self.options, heap=Heap()).set_up()
        self.known = self.constraint._shared

    def forget(self) -> None:
        """As right after the set-up: what other schemas taught is forgotten too."""
        for automaton, _ in self.constraint._automata._values.values():
            automaton.dismantle()
        self.constraint = Constraint(self.vocabulary, self.options, heap=Heap())
        self.constraint._shared = shared = copy.copy(self.known)
        for name in ("_sets", "_unions", "_spelled", "_shapes"):
            setattr(shared, name, getattr(self.known, name).copy())

    def start(self, schema: dict[str, Any]) -> Matcher:
        return _Ours(self.constraint.json(schema, "", "", arguments=True), self.vocabulary.words)


class _Ours:
    def __init__(self, position: Any, words: int) -> None:
        self.position, self.words = position, words

    def fill(self, row: Row) -> None:
        self.position.fill(row)

    def accept(self, token: int) -> bool:
        after = self.position.advance(token)
        if after is not None:
            self.position = after
        return after is not None

    def ended(self) -> bool:
        return bool(self.position.ended)


class Xgrammar:
    name = "xgrammar"

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = [token if token is not None else b"" for token in vocabulary.tokens]
        info = xgrammar.TokenizerInfo(tokens, vocab_size=len(tokens), stop_token_ids=[vocabulary.eos_id])
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.seen: dict[str, Any] = {}

    def forget(self) -> None:
        self.seen.clear()

    def start(self, schema: dict[str, Any]) -> Matcher:
        key = json.dumps(schema)
        if key not in self.seen:
            self.seen[key] = self.compiler.compile_json_schema(key, any_whitespace=False, separators=(", ", ": "))
        return _Xgrammar(xgrammar.GrammarMatcher(self.seen[key], terminate_without_stop_token=True))


class _Xgrammar:
    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    def fill(self, row: Row) -> None:
        self.matcher.fill_next_token_bitmask(row.reshape(1, -1))

    def accept(self, token: int) -> bool:
        return bool(self.matcher.accept_token(token))

    def ended(self) -> bool:
        return bool(self.matcher.is_terminated())


class Llguidance:
    name = "llguidance"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokenizer: LLTokenizer = Guidance(vocabulary).tokenizer()
        self.seen: dict[str, LLMatcher] = {}

    def forget(self) -> None:
        self.seen.clear()

    def start(self, schema: dict[str, Any]) -> Matcher:
        key = json.dumps(schema)
        if key not in self.seen:
            spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
            grammar = LLMatcher.grammar_from_json_schema(json.dumps({**schema, "x-guidance": spacing}))
            self.seen[key] = LLMatcher(self.tokenizer, grammar, log_level=0)
        if self.seen[key].is_error():
            raise ValueError(self.seen[key].get_error())
        return _Llguidance(self.seen[key].deep_copy())


class _Llguidance:
    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def fill(self, row: Row) -> None:
        self.matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)

    def accept(self, token: int) -> bool:
        return bool(self.matcher.consume_token(token))

    def ended(self) -> bool:
        return bool(self.matcher.is_accepting())


def version(module: str) -> str:
    from importlib.metadata import version as installed

    return installed(module)


VERSIONS = {name: version(name) for name in ("xgrammar", "llguidance", "lm-format-enforcer")}
assert llguidance  # named above
