"""The constraint against its peers: ``python -m benchmarks.constrain [speed accepted suites walks memory] [--full]``.

Engines are interleaved in one process, on the real Qwen vocabulary and BFCL's own schemas and answers, at the same
canonical white space; times are thread CPU time, the smallest of three. The last line is JSON. Needs BFCL's data
(``make bfcl-data``).
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jsonschema
import numpy as np
import psutil

from benchmarks import constrain_data as data
from benchmarks.constrain_engines import VERSIONS, Engine, Llguidance, Ours, Xgrammar
from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Heap, Vocabulary
from octupus.constrain.vocabulary import Mask
from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json

REPEATS = 3
Figures = dict[str, Any]


class Bench:
    """The vocabulary and the answers, read once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.full, self.random = bool(options.full), random.Random(options.seed)
        self.count, self.first, self.sampler = options.count, options.first, options.sampler
        self.tokenizer = data.qwen()
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer)
        self.answers = data.bfcl()
        self.schemas = list({json.dumps(answer.schema): answer for answer in self.answers}.values())
        self.random.shuffle(self.schemas)
        self.row = np.zeros(self.vocabulary.words, np.int32)
        counts = Counter(t for answer in self.answers for t in self.ids(answer.arguments))
        counts.update(t for row in data.rows("questions")[:500] for t in self.tokenizer.encode(str(row["turns"])))
        self.common = list(counts)
        self.sorted, self.weights = np.array(sorted(counts)), np.cumsum(list(counts.values()))
        gc.collect()
        gc.freeze()  # as vLLM does when it has started: a collection is not this mask's time

    def ids(self, value: Any) -> list[int]:
        return self.tokenizer.encode(canonical_json(value))

    def draw(self, mask: Mask, rng: random.Random) -> int:
        """A token by the frequency of tokens in BFCL's answers and questions, among those allowed."""
        for _ in range(40):
            token = self.common[int(np.searchsorted(self.weights, rng.random() * self.weights[-1], side="right"))]
            if mask[token >> 5] >> (token & 31) & 1:
                return token
        ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        known = ids[np.isin(ids, self.sorted, assume_unique=True)]
        return int(rng.choice(known if len(known) else ids))


def speed(bench: Bench) -> Figures:
    """Compile, mask and accept: a schema never seen, and one warmed with one random walk."""
    engines: list[Engine] = [Ours(bench.vocabulary, "lm-format-enforcer"), Ours(bench.vocabulary, "auto")]
    engines += [Xgrammar(bench.vocabulary), Llguidance(bench.vocabulary)]
    sample = bench.schemas[: bench.count or (600 if bench.full else 60)]
    cold: dict[str, list[float]] = {engine.name: [] for engine in engines}
    known: dict[str, list[float]] = {engine.name: [] for engine in engines}
    worst = dict.fromkeys(cold, 0.0)
    steps = 0
    for answer in sample:
        ids = bench.ids(data.in_schema_order(answer.arguments, answer.schema))
        steps += len(ids) + 1
        walk: list[int] = []
        for engine in engines:
            times = []
            for _ in range(REPEATS):
                engine.forget()
                times.append(_one(engine, answer.schema, ids, bench.row))
            if times[0] is None:
                continue
            cold[engine.name].append(min(total for total, _ in times))
            worst[engine.name] = max(worst[engine.name], min(slowest for _, slowest in times))
            times = []
            for _ in range(REPEATS):
                engine.forget()
                walk = walk or _walk(bench, engine, answer.schema)
                _one(engine, answer.schema, walk, bench.row)
                times.append(_one(engine, answer.schema, ids, bench.row, compiled=True))
            known[engine.name].append(min(total for total, _ in times))
    figures: Figures = {"schemas": len(sample), "tokens": steps}
    for engine in engines:
        print(
            f"{engine.name:26} cold call {1e3 * float(np.mean(cold[engine.name])):8.2f} ms   known "
            f"{1e6 * sum(known[engine.name]) / steps:8.2f} us a token   worst mask {1e3 * worst[engine.name]:.1f} ms"
        )
    call = {name: float(np.mean(times)) for name, times in cold.items()}
    token = {name: sum(times) / steps for name, times in known.items()}
    figures["known_mean_us"] = round(1e6 * token["octupus"], 2)
    figures["known_mean_ratio_xgrammar"] = round(token["octupus"] / token["xgrammar"], 3)
    figures["cold_call_ms"] = round(1e3 * call["octupus"], 2)
    figures["cold_call_ratio_xgrammar"] = round(call["octupus"] / call["xgrammar"], 3)
    figures["cold_call_ratio_llguidance"] = round(call["octupus"] / call["llguidance"], 3)
    figures["auto_cold_call_ms"] = round(1e3 * call["octupus (auto)"], 2)
    figures["auto_known_mean_us"] = round(1e6 * token["octupus (auto)"], 2)
    figures["worst_mask_ms"] = round(1e3 * worst["octupus"], 2)
    return figures


def _one(engine: Engine, schema: Any, ids: Sequence[int], row: Any, compiled: bool = False) -> tuple[float, float]:
    """Seconds of one answer, and of its slowest mask; without what ``start`` takes where the schema is known."""
    began = time.thread_time()
    matcher = engine.start(schema)
    total = 0.0 if compiled else time.thread_time() - began
    slowest = 0.0
    for token in (*ids, None):
        began = time.thread_time()
        matcher.fill(row)
        filled = time.thread_time()
        if token is not None and not matcher.accept(token):
            return total, slowest
        total += time.thread_time() - began
        slowest = max(slowest, filled - began)
    return total, slowest


def _walk(bench: Bench, engine: Engine, schema: Any, limit: int = 256) -> list[int]:
    """One seeded walk: what warms a schema."""
    rng, row = random.Random(len(json.dumps(schema))), bench.row
    ids: list[int] = []
    matcher = engine.start(schema)
    while len(ids) < limit and not matcher.ended():
        matcher.fill(row)
        ids.append(bench.draw(row, rng))
        assert matcher.accept(ids[-1])
    return ids


def accepted(bench: Bench) -> Figures:
    """BFCL's ground truth as canonical text, in its own order of keys and in the schema's."""
    constraint = Constraint(bench.vocabulary, heap=Heap()).set_up()
    counts, worst = Counter[str](), 0.0
    for answer in bench.answers:
        ordered = data.in_schema_order(answer.arguments, answer.schema)
        for order, value in (("own", answer.arguments), ("schema", ordered)):
            ok, slowest = _accepts(bench, constraint, answer.schema, value, arguments=True)
            counts[order] += ok
            counts[f"{order}, formats kept"] += ok and answer.formats
            worst = max(worst, slowest)
            if not ok and order == "own":
                print("not accepted:", canonical_json(value)[:160])
    kept = sum(answer.formats for answer in bench.answers)
    share = min(counts["own"], counts["schema"]) / len(bench.answers)
    formatted = min(counts["own, formats kept"], counts["schema, formats kept"]) / kept
    print(f"accepted of {len(bench.answers)}: {share:.5f}; of the {kept} that also keep `format`: {formatted:.5f}")
    print(f"slowest mask {1e3 * worst:.1f} ms")
    figures = {"bfcl_accepted": round(share, 5), "bfcl_accepted_formats_kept": round(formatted, 5)}
    return {**figures, "bfcl_answers": len(bench.answers), "bfcl_worst_mask_ms": round(1e3 * worst, 2)}


def _accepts(bench: Bench, constraint: Constraint, schema: Any, value: Any, arguments: bool) -> tuple[bool, float]:
    value = constraint.plan(schema, arguments=arguments).arrange(value)
    position: Any = constraint.json(schema, "", "", arguments=arguments)
    slowest = 0.0
    for token in bench.ids(value):
        began = time.thread_time()
        mask = position.mask()
        slowest = max(slowest, time.thread_time() - began)
        after = position.advance(token)
        assert bool(mask[token >> 5] >> (token & 31) & 1) == (after is not None), "mask and advance disagree"
        if after is None:
            return False, slowest
        position = after
    return position.ended, slowest


def suites(bench: Bench) -> Figures:
    """Schemas with instances: a refused schema counts as wrong, an accepted invalid instance as a defect."""
    figures: Figures = {}
    for name, groups in (("jsonschemabench", data.jsonschemabench()), ("official", data.official_suite())):
        if not groups:
            print(f"{name}: not there (looked in {data.SHARED}); skipped")
            continue
        # The official suite calls every instance of a format valid: an annotation, as JSON Schema has it.
        options = ConstraintSection(formats="none" if name == "official" else "content")
        constraint, refused = Constraint(bench.vocabulary, options, heap=Heap()).set_up(), Counter[str]()
        right, invalid, worst = 0, 0, 0.0
        for group in groups:
            try:
                constraint.plan(group.schema)
                results = []
                for value, valid in group.instances:
                    ok, slowest = _accepts(bench, constraint, group.schema, value, arguments=False)
                    worst = max(worst, slowest)
                    results.append(ok == valid)
                    invalid += ok and not valid
                right += all(results)
            except ConstraintError as error:
                refused[error.keyword or error.reason[:60]] += 1
        print(
            f"{name}: {right} of {len(groups)} fully right, {invalid} invalid accepted, worst mask {1e3 * worst:.1f} ms"
        )
        print(f"  refused: {', '.join(f'{keyword} {count}' for keyword, count in refused.most_common())}")
        figures |= {f"{name}_fully_right": round(right / len(groups), 4), f"{name}_invalid_accepted": invalid}
        figures[f"{name}_worst_mask_ms"] = round(1e3 * worst, 2)
    return figures


def walks(bench: Bench) -> Figures:
    """Random answers: every one that ends must be legal JSON that satisfies its schema."""
    constraint = Constraint(bench.vocabulary, heap=Heap()).set_up()
    counts = {"unigram": 10_000 if bench.full else 1_000, "uniform": 1_000 if bench.full else 100}
    figures: Figures = {}
    for sampler in [bench.sampler] if bench.sampler else counts:
        illegal, literally, unfinished, broken, count = 0, 0, 0, 0, bench.count or counts[sampler]
        for number in range(bench.first, bench.first + count):
            rng, answer = random.Random(number), bench.schemas[number % len(bench.schemas)]
            text, ended = _walk_text(bench, constraint, answer.schema, rng, sampler)
            try:
                text.decode()
            except UnicodeDecodeError:
                broken += ended
            unfinished += not ended
            illegal += ended and not _legal(text, data.enums_as_items(answer.schema))
            literally += ended and not _legal(text, answer.schema)
        print(
            f"{count} {sampler} walks: {illegal} illegal ({literally} where an enum of scalars beside `type: array` is "
            f"taken literally), {unfinished} unfinished at 512 tokens, {broken} bad UTF-8"
        )
        figures |= {f"walks_{sampler}": count, f"illegal_{sampler}": illegal, f"broken_utf8_{sampler}": broken}
        figures[f"illegal_{sampler}_literally"] = literally
        figures[f"unfinished_{sampler}"] = round(unfinished / count, 5)
    return figures


def _walk_text(
    bench: Bench, constraint: Constraint, schema: Any, rng: random.Random, sampler: str
) -> tuple[bytes, bool]:
    position: Any = constraint.json(schema, "", "", arguments=True)
    text = b""
    for _ in range(512):
        mask = position.mask()
        if position.ended and not mask.any():
            return text, True
        token = bench.draw(mask, rng) if sampler == "unigram" else _any(mask, rng)
        position = position.advance(token)
        text += bench.vocabulary.tokens[token] or b""
    return text, position.ended


def _any(mask: Mask, rng: random.Random) -> int:
    """One of the allowed tokens, each as likely as any other."""
    ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    return int(ids[rng.randrange(len(ids))])


def _legal(text: bytes, schema: Any) -> bool:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ValueError:
        return False
    return isinstance(value, dict) and jsonschema.Draft202012Validator(schema).is_valid(value)


def memory(bench: Bench) -> Figures:
    """Many schemas, four masks each: what is kept stays at its bound; how long the garbage collector stops a mask."""
    constraint = Constraint(bench.vocabulary, heap=Heap()).set_up()
    count, rng = bench.count or (100_000 if bench.full else 5_000), random.Random(1)
    worst, pauses, process = 0.0, [0.0], psutil.Process()
    before = most = process.memory_info().rss

    def collected(phase: str, info: dict[str, int]) -> None:
        pauses.append(time.thread_time() if phase == "start" else time.thread_time() - pauses.pop())

    gc.callbacks.append(collected)
    for number, schema in enumerate(_generated(rng, count)):
        position: Any = constraint.json(schema, "", "", arguments=True)
        for _ in range(4):
            began = time.thread_time()
            mask = position.mask()
            worst = max(worst, time.thread_time() - began)
            ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            position = position.advance(int(ids[-1])) if len(ids) else position
        if number % 500 == 499:
            most = max(most, process.memory_info().rss)
        if number % 5_000 == 4_999:
            kept, longest = constraint.counts(), 1e3 * max(pauses)
            print(
                f"  {number + 1} schemas: {kept['cached_bytes'] / 2**20:.0f} MiB counted in {kept['automata']:.0f}, "
                f"RSS {process.memory_info().rss / 2**20:.0f} MiB, slowest mask {1e3 * worst:.1f} ms, "
                f"longest garbage collection {longest:.1f} ms",
                flush=True,
            )
    gc.callbacks.remove(collected)
    figures = {"memory_schemas": count, "memory_bound_mib": constraint.options.cache_mb}
    figures |= {"rss_before_mib": round(before / 2**20), "rss_most_mib": round(most / 2**20)}
    return {**figures, "memory_worst_mask_ms": round(1e3 * worst, 2), "longest_gc_ms": round(1e3 * max(pauses), 2)}


def _generated(rng: random.Random, count: int) -> Iterator[dict[str, Any]]:
    kinds: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "array"}]
    for number in range(count):
        names = [f"p{number}_{i}" for i in range(rng.randrange(1, 8))]
        properties = {name: {**rng.choice(kinds), "description": f"number {number}"} for name in names}
        yield {"type": "object", "properties": properties, "required": names[: rng.randrange(len(names) + 1)]}


PARTS: dict[str, Callable[[Bench], Figures]] = {
    "speed": speed,
    "accepted": accepted,
    "suites": suites,
    "walks": walks,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all, where none is named")
    parser.add_argument("--full", action="store_true", help="all schemas, 10,000 walks, 100,000 schemas in memory")
    parser.add_argument("--count", type=int, help="so many schemas (speed, memory) or walks, to split a long run")
    parser.add_argument("--sampler", choices=["unigram", "uniform"], help="of walks: only this one")
    parser.add_argument("--first", type=int, default=0, help="number of the first walk, to go on with a split run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not data.BFCL.is_dir():
        sys.exit(f"no BFCL data in {data.BFCL}; run: make bfcl-data")
    bench = Bench(options)
    figures: Figures = {"benchmark": "constrain", "versions": VERSIONS, "full": options.full}
    for name in options.parts or PARTS:
        print(f"== {name}: {(PARTS[name].__doc__ or '').splitlines()[0]}", flush=True)
        gc.collect()
        gc.freeze()  # the benchmark's own data, and what another part has left, are no part of a mask's time
        figures |= PARTS[name](bench)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
