"""The teacher stage against a bare ``LLM.generate`` over the same prompts, and what its bookkeeping costs at scale.

    python -m benchmarks.teacher [--part throughput|plan|resume] [--prompts 600] [--rounds 3] [--rows 1000000]

* ``throughput``: a tiny Qwen2 with random weights on vLLM, greedy, a fixed number of tokens each. One engine serves
  both in turn; ours is everything from the plan's prompts to rows on disk.
* ``plan``: makes the plan of ``--rows`` prompts from a jsonl file of chats, in a process of its own.
* ``resume``: opens a shard of 100,000 finished ids.

Prints each figure, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from octupus.config import ModelSection, Recipe, ScratchModel, TeacherSection
from octupus.runs import Run

PARTS = ("throughput", "plan", "resume")
TOKENS = 48
SHAPE = ScratchModel(vocab_size=4096, hidden_size=256, intermediate_size=512, layers=4, heads=4, kv_heads=2)
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
ARGS = {"max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 32, "dtype": "float32"}


def words(seed: int, n: int) -> str:
    draw = random.Random(seed)
    return " ".join(
        draw.choice(("river", "seven", "count", "amber", "fold", "quiet", "moss", "plan")) for _ in range(n)
    )


def chats(path: Path, rows: int) -> Path:
    """Chats with one to three user turns of log-normal length."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for i in range(rows):
            users = [
                words(3 * i + k, 1 + int(draw.lognormvariate(3.2, 0.8))) for k in range(draw.choice((1, 1, 1, 2, 3)))
            ]
            said = [
                {"role": r, "content": text} for u in users for r, text in (("user", f"{i} {u}"), ("assistant", "ok"))
            ]
            stream.write(json.dumps({"messages": said}) + "\n")
    return path


def recipe(model: str, path: Path, **teacher: Any) -> Recipe:
    value = {"model": model, "prompts": [{"name": "openai_format", "path": str(path)}], **teacher}
    return Recipe(name="bench", model=ModelSection(base="none"), teacher=TeacherSection.model_validate(value))


def throughput(folder: Path, prompts: int, rounds: int) -> dict[str, float]:
    """Medians over alternations of tokens a second, ours and bare."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    from octupus import scratch
    from octupus.teacher import engine
    from octupus.teacher.run import work

    model = scratch.build(SHAPE, [words(i, 40) for i in range(400)], folder / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    path = folder / "p.jsonl"
    with path.open("w") as stream:
        for i in range(prompts):
            stream.write(json.dumps({"messages": [{"role": "user", "content": f"{i} {words(i, 30)}"}]}) + "\n")
    # Every answer is as long as it may be, so both sides write the same number of tokens; "cut" is no reject here.
    sampling = {"temperature": 0.0, "max_tokens": TOKENS}
    chosen = recipe(str(model), path, engine="vllm", sampling=sampling, engine_args=ARGS, gates=["refusal"])
    opened = engine.open_engine(chosen.teacher)
    llm, close = opened._llm, opened.close
    vars(engine)["open_engine"] = lambda section: opened
    opened.close = lambda: None  # type: ignore[method-assign]  # one start serves all rounds
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    texts: list[list[Any]] = [[{"role": "user", "content": f"{i} {words(i, 30)}"}] for i in range(prompts)]
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, output_kind=RequestOutputKind.FINAL_ONLY)
    for number in range(rounds + 1):
        for kind in ("ours", "bare") if number % 2 else ("bare", "ours"):
            llm.reset_prefix_cache()
            began = time.perf_counter()
            if kind == "ours":
                work(chosen, Run(folder / f"run{number}"))
                rows = [json.loads(line) for line in (folder / f"run{number}/teacher/answers/00000.jsonl").open()]
                tokens = sum(row["tokens"] for row in rows)
            else:
                ids = [
                    llm.get_tokenizer().apply_chat_template(t, add_generation_prompt=True, return_dict=False)
                    for t in texts
                ]
                outputs = llm.generate(
                    [TokensPrompt(prompt_token_ids=i) for i in ids if isinstance(i, list)], params, use_tqdm=False
                )
                tokens = sum(len(o.outputs[0].token_ids) for o in outputs)
            rate = tokens / (time.perf_counter() - began)
            print(f"round {number} {kind}: {tokens:,} tokens, {rate:,.0f} tokens/s", flush=True)
            if number:  # the first round warms both up
                rates[kind].append(rate)
    close()
    ratios = [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)]
    return {
        "throughput_ratio": round(statistics.median(ratios), 4),
        "throughput_ratio_min": round(min(ratios), 4),
        "throughput_ratio_max": round(max(ratios), 4),
        "tokens_per_s": round(statistics.median(rates["ours"])),
        "bare_tokens_per_s": round(statistics.median(rates["bare"])),
    }


def plan(folder: Path, rows: int) -> dict[str, float]:
    """Seconds and peak memory (the largest process and all its children's) of a plan."""
    path = chats(folder / "chats.jsonl", rows)
    code = (
        "import sys; from pathlib import Path; from octupus.runs import Run; from benchmarks.teacher import recipe\n"
        "from octupus.teacher.plan import make_plan\n"
        "if __name__ == '__main__':\n"
        "    chosen = recipe('x', Path(sys.argv[1]), engine='scripted', shards=64)\n"
        "    print(make_plan(chosen.teacher, Run(sys.argv[2]), Path(sys.argv[2]) / 'plan', {}).prompts)\n"
    )
    script = folder / "plan.py"
    script.write_text(code)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), str(folder / "planned")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, family_mb(process.pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    assert process.stdout is not None and process.returncode == 0
    print(f"plan: {int(process.stdout.read()):,} prompts in {seconds:.1f} s, {peak:.0f} MB", flush=True)
    return {"plan_rows": rows, "plan_s": round(seconds, 1), "plan_peak_mb": round(peak)}


def family_mb(pid: int) -> float:
    """Resident memory of a process and all below it."""
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            sizes[int(entry.name)] = int(fields[21]) * resource.getpagesize()
    found, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        found += sizes.get(one, 0)
        waiting += children.get(one, [])
    return found / 1e6


def resume(folder: Path, rows: int = 100_000) -> dict[str, float]:
    """Seconds to open a shard whose ids are all answered, as part of an unfinished shard."""
    from octupus.teacher.ledger import Ledger
    from octupus.teacher.plan import make_plan

    chosen = recipe("x", chats(folder / "chats.jsonl", rows), engine="scripted")
    made = make_plan(chosen.teacher, Run(folder / "run"), folder / "run/teacher/plan", {})
    ledger, answer = Ledger(folder / "run/teacher", made), words(1, 200)
    part = ledger.part(0, 1)
    for prompt in made.shard(0):
        said = [{"role": "user", "content": prompt.users[0]}, {"role": "assistant", "content": answer}]
        part.append({"id": prompt.id, "messages": said, "opening": 0, "was": 0, "tokens": 200})
    part.close()
    began = time.perf_counter()
    known = ledger.known(0)
    missing = [p for p in made.shard(0) if p.id not in known]
    seconds = time.perf_counter() - began
    assert not missing and len(known) == made.prompts
    print(f"resume: {len(known):,} finished ids in {seconds:.1f} s", flush=True)
    return {"resume_ids": len(known), "resume_s": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ.update({"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **settings})
    found: dict[str, float] = {}
    for part in PARTS if asked.part is None else (asked.part,):
        with tempfile.TemporaryDirectory() as folder:
            if part == "throughput":
                found |= throughput(Path(folder), asked.prompts, asked.rounds)
            elif part == "plan":
                found |= plan(Path(folder), asked.rows)
            else:
                found |= resume(Path(folder))
    print(json.dumps({"benchmark": "teacher", "cores": len(os.sched_getaffinity(0)), **found}))


if __name__ == "__main__":
    main()
