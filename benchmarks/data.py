"""The data path in figures: ``python -m benchmarks.data [--part speed|packing|build]``; the last line is JSON.

``speed``: stored conversations to token documents on disk, our renderer against the usual way, turn about, on the same
rows, tokenizer and cores, start of the processes included. The usual way is ``datasets.map`` over
``tokenizer.apply_chat_template`` with an assistant mask, for which our exported template gets generation marks.
``packing``: how full rows are. ``build``: peak memory of whole builds of 100,000 and 1,000,000 rows with dedup
(``--rows``), all processes together; takes half an hour.
Lengths are log-normal (median 450 tokens, sigma 0.8, cut at the context), the words Zipf-distributed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CONTEXT = 4096
TOOL = {
    "type": "function",
    "function": {
        "name": "find_flights",
        "description": "Search for flights between two cities on a day.",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": "string", "description": f"the {name}"} for name in ("origin", "to", "day")},
            "required": ["origin", "to"],
        },
    },
}


def tokenizer_folder(folder: Path, name: str | None) -> Path:
    """A folder as surgery leaves it, without weights, around Qwen2.5's vocabulary or that of ``name``."""
    from octupus.surgery import extend_tokenizer, write_tokenizer
    from octupus.tokenizer import HfTokenizer, load_tokenizer
    from octupus.wire import Wire, write_wire
    from octupus.wire.dialect import OCTUPUS

    if name is None:
        from tests.support.qwen import qwen_folder

        name = str(qwen_folder())
    base = load_tokenizer(name)
    tokenizer = HfTokenizer(extend_tokenizer(base.spec, OCTUPUS), base.token(base.eos_id))
    folder.mkdir(parents=True)
    write_tokenizer(Path(name), folder, tokenizer)
    write_wire(folder, Wire(OCTUPUS, tokenizer))
    return folder


def lengths(n: int, context: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Tokens of ``n`` conversations."""
    return np.random.default_rng(seed).lognormal(np.log(450), 0.8, n).astype(np.int64).clip(1, context)


def vocabulary() -> list[str]:
    """Words as text has them: 40,000 made of syllables, short ones first, and 3,000 Chinese characters among them."""
    rng = np.random.default_rng(5)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "or", "ing")]
    words = ["".join(rng.choice(syllables, 1 + i // 9000 + int(rng.random() * 2))) for i in range(40_000)]
    for i in range(3_000):
        words.insert(20 + 13 * i, chr(0x4E00 + i))
    return list(dict.fromkeys(words))


def conversations(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows in OpenAI's form of about :func:`lengths` tokens; a fifth has a call, 1% occurs twice, 1% nearly."""
    rng, words = np.random.default_rng(seed), vocabulary()
    share = 1 / np.arange(1, len(words) + 1)
    place = np.cumsum(share / share.sum())
    last: dict[str, Any] | None = None
    for length in lengths(n, CONTEXT, seed).tolist():
        if last is not None and rng.random() < 0.02:
            copy = json.loads(json.dumps(last))
            if rng.random() < 0.5:
                copy["messages"][-1]["content"] += f" {words[length]}"
            yield copy
            continue
        chosen = [
            words[i] for i in np.searchsorted(place, rng.random(max(4, int(0.48 * length)))).clip(0, len(words) - 1)
        ]
        for at in range(7, len(chosen), 9):
            chosen[at] += (".", ",", "?", ":\n", ".\n\n", " (3)")[at % 6]
        cut = max(1, len(chosen) // 4)
        user, answer = " ".join(chosen[:cut]), " ".join(chosen[cut:])
        messages: list[dict[str, Any]] = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        if rng.random() < 0.2:
            arguments = {"origin": chosen[0], "to": chosen[-1], "day": user[:20]}
            call = {
                "id": "c",
                "type": "function",
                "function": {"name": "find_flights", "arguments": json.dumps(arguments)},
            }
            result = {"role": "tool", "content": json.dumps({"flights": chosen[:3]}), "tool_call_id": "c"}
            messages[1:1] = [{"role": "assistant", "content": "", "tool_calls": [call]}, result]
        last = {"messages": messages, "tools": [TOOL] if len(messages) > 2 else []}
        yield last


def write(path: Path, n: int) -> Path:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in conversations(n))
    return path


def build(folder: Path, rows: Path, model: Path, near: float | None) -> dict[str, Any]:
    """The data stage of a recipe that reads the rows once."""
    from data_recipes.build import run
    from octupus.config import Recipe
    from octupus.runs import Run

    source = {"name": "openai_format", "path": str(rows)}
    data = {
        "decontaminate": near is not None,
        "near_duplicates": near,
        "stage1": {"context": CONTEXT, "sources": [source]},
    }
    shutil.copytree(model, folder / "surgery" / "model")
    return run(Recipe.model_validate({"name": "benchmark", "model": {"base": "none"}, "data": data}), Run(folder))


def ours(store: Path, inputs: str, n: int, model: Path, out: Path) -> float:
    """Seconds from a store of conversations to documents on disk."""
    from octupus.data.mix import keys_of
    from octupus.data.render import Renderer, render_all
    from octupus.data.workers import Workers

    began = time.perf_counter()
    with Workers() as workers:
        renderer = Renderer(model, "octupus", None, CONTEXT, ((store, inputs),), out)
        done = sum(count for count, _ in render_all(renderer, keys_of(0, 0, np.arange(n)), workers))
        assert done == n
        return time.perf_counter() - began


def theirs(rows: Path, model: Path, cache: Path) -> float:
    """Seconds of ``datasets.map`` over rows that are in Arrow already, batch by batch (never slower than row by row).

    Imports and the tokenizer's loading are not counted; of ours, they are.
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    answer, end = "{%- if turn.content -%}{{- ", "{%- elif turn.role == 'user' -%}"
    assert template.count(answer) == 1 and template.count(end) == 1
    template = template.replace(answer, "{%- generation -%}" + answer).replace(end, "{%- endgeneration -%}" + end)
    data = Dataset.from_json(str(rows), cache_dir=str(cache))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def encode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"input_ids": [], "assistant_masks": []}
        for given, tools in zip(rows["messages"], rows["tools"], strict=True):
            messages = [{k: v for k, v in message.items() if v is not None} for message in given]
            done: Any = tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                chat_template=template,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            for name, values in found.items():
                values.append(done[name])
        return found

    began = time.perf_counter()
    processes = len(os.sched_getaffinity(0))
    found = data.map(encode, batched=True, num_proc=processes, remove_columns=data.column_names)
    seconds = time.perf_counter() - began
    assert len(found) == len(data)
    some: dict[str, Any] = found[len(found) // 2]
    assert 0 < sum(some["assistant_masks"]) < len(some["input_ids"])
    return seconds


def speed(folder: Path, model: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Conversations a second of both ways, medians over rounds turn about."""
    from data_recipes.build import source_key
    from octupus.config import SourceSection
    from octupus.publish import read_json

    path = write(folder / "rows.jsonl", rows)
    build(folder / "run", path, model, None)
    key = source_key(SourceSection(name="openai_format", path=str(path)))
    store = folder / "run" / "data" / "clean" / key
    report = read_json(store / "report.json") or {}
    kept: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(rounds):
        for kind in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
            out = folder / f"{kind}-{turn}"
            if kind == "ours":
                kept[kind].append(report["kept"] / ours(store, report["inputs"], report["kept"], model, out))
            else:
                kept[kind].append(rows / theirs(path, model, out))
            print(f"round {turn + 1}: {kind} {kept[kind][-1]:,.0f} conversations/s", flush=True)
    ratios = [a / b for a, b in zip(kept["ours"], kept["theirs"], strict=True)]
    return {
        "conversations_per_s": round(median(kept["ours"])),
        "baseline_conversations_per_s": round(median(kept["theirs"])),
        "ratio": round(median(ratios), 2),
        "ratio_interval": [round(min(ratios), 2), round(max(ratios), 2)],
        "speed_rows": rows,
    }


def packing() -> dict[str, Any]:
    """How full best-fit rows are; the bar holds for the worse of the two contexts."""
    from octupus.data.pack import pack

    found = {}
    for context in (4096, 8192):
        documents = lengths(100_000, context)
        _, bounds = pack(documents, context)
        found[str(context)] = round(float(documents.sum() / ((len(bounds) - 1) * context)), 5)
    return {"packing_efficiency": min(found.values()), "packing_efficiency_by_context": found}


def memory(folder: Path, model: Path, sizes: list[int]) -> dict[str, Any]:
    """Peak resident memory (MB, summed over all processes of a build) at each size, in processes of their own."""
    found: dict[str, Any] = {}
    for n in sizes:
        rows = write(folder / "rows.jsonl", n)
        code = "from pathlib import Path; from benchmarks.data import build; "
        code += f"build(Path({str(folder / 'run')!r}), Path({str(rows)!r}), Path({str(model)!r}), 0.9)"
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", code])
        peak = _peak(process)
        if process.returncode:
            sys.exit(f"the build of {n} rows ended with code {process.returncode}")
        seconds = time.perf_counter() - began
        manifest = json.loads((folder / "run/data/stage1/manifest.json").read_text())
        near = manifest["details"]["sources"][0]["near_duplicates"]["count"]
        found[str(n)] = {
            "peak_rss_mb": round(peak, 1),
            "seconds": round(seconds),
            "documents": manifest["documents"],
            "tokens": manifest["tokens"],
            "near_duplicates": near,
            "packing_efficiency": manifest["packing_efficiency"],
        }
        print(f"{n} rows: {found[str(n)]}", flush=True)
        shutil.rmtree(folder / "run")
    peaks = [facts["peak_rss_mb"] for facts in found.values()]
    return {"peak_rss_mb": peaks[-1], "peak_rss_growth": round(peaks[-1] / peaks[0] - 1, 4), "builds": found}


def _peak(process: subprocess.Popen[bytes]) -> float:
    import psutil

    peak, over = 0.0, threading.Event()
    watched = psutil.Process(process.pid)

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            try:
                family = [watched, *watched.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            total = 0
            for one in family:
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, total / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    process.wait()
    over.set()
    thread.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("speed", "packing", "build"), action="append", help="default: all")
    parser.add_argument("--speed-rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="of the builds")
    parser.add_argument("--tokenizer", help="a model folder; default: Qwen2.5's, which the development packages bring")
    parser.add_argument("--scratch", type=Path, help="where temporary files go; a million rows need 20 GB")
    asked = parser.parse_args()
    wanted = asked.part or ["speed", "packing", "build"]
    found: dict[str, Any] = {"benchmark": "data", "device": f"CPU, {len(os.sched_getaffinity(0))} cores"}
    with tempfile.TemporaryDirectory(prefix="octupus-benchmark-", dir=asked.scratch) as name:
        folder = Path(name)
        model = tokenizer_folder(folder / "model", asked.tokenizer)
        if "packing" in wanted:
            found |= packing()
        if "speed" in wanted:
            found |= speed(folder, model, asked.speed_rows, asked.rounds)
        if "build" in wanted:
            found |= memory(folder, model, asked.rows)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
