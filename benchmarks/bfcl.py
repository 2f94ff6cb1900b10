"""One generate job of ours against the stock ``bfcl generate``: the same entries, threads and instant endpoint.

    python -m benchmarks.bfcl [--pairs 3] [--threads 16] [--categories single_turn]

Both are whole processes, start-up included; the endpoint answers every request at once with the same short text. Prints
each pair, then one JSON line: the median ratios of wall and of CPU times (ours / stock) with the smallest and the
largest one. CPU time, that of the task and of all it starts, without the endpoint, holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from eval.sample import harness_python
from octupus.config import BfclSection, ModelSection, Recipe
from octupus.publish import publish_json
from octupus.runs import Run

ROOT = Path(__file__).resolve().parents[1]
STOCK = "openbmb/MiniCPM-SALA-FC"
"""The one name of the stock package that is the plain chat-completions client with function calling."""
SERVE = """
import asyncio, json, sys
from aiohttp import web
message = {"role": "assistant", "content": "No tool fits."}
usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
answer = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "instant", "usage": usage,
    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
async def chat(request):
    await request.read()
    return web.Response(text=answer, content_type="application/json")
async def main():
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/health", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
OURS = "import sys; from slurm.jobs import BfclJob; BfclJob(sys.argv[1], 'bfcl')()"


def stock(root: Path, url: str, threads: int, categories: str) -> tuple[float, float]:
    """Wall and CPU seconds of the stock command."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "BFCL_", "PYTHON"))}
    environment = kept | {
        **{"BFCL_PROJECT_ROOT": str(root), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"},
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
    }
    command = [harness_python(), "-u", "-m", "bfcl_eval", "generate", "--model", STOCK, "--test-category", categories]
    return timed([*map(str, command), "--num-threads", str(threads)], environment, root)


def ours(root: Path, url: str, threads: int, categories: str) -> tuple[float, float]:
    """Wall and CPU seconds of our task over the same categories."""
    section = BfclSection(
        categories=dict.fromkeys(categories.split(",")), threads=threads, url=url, url_model="instant"
    )
    recipe = Recipe(name="bench", model=ModelSection(base="none"), bfcl=section)
    publish_json(Run(root).path / "recipe.json", {"recipe": recipe.model_dump(mode="json")})
    return timed([sys.executable, "-c", OURS, str(root)], {**os.environ, "PYTHONPATH": str(ROOT)}, root)


def timed(command: Sequence[str], environment: dict[str, str], root: Path) -> tuple[float, float]:
    began, used = time.monotonic(), cpu()
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        sys.exit(f"{' '.join(command[:6])} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return seconds, cpu() - used


def cpu() -> float:
    """Seconds that processes which have ended used; the endpoint has not."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def rows(root: Path) -> int:
    files = [path for path in root.rglob("*_result.json")]
    found = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert not any(str(row["result"]).startswith("Error during inference") for row in found), "the endpoint failed"
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bfcl", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--categories", default="single_turn")
    given = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    folder = Path(tempfile.mkdtemp(prefix="octupus-bench-bfcl-"))
    seconds: dict[str, list[tuple[float, float]]] = {"stock": [], "ours": []}
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        for pair in range(given.pairs):
            counts = {}
            for name, run in (("stock", stock), ("ours", ours))[:: 1 if pair % 2 == 0 else -1]:
                root = folder / f"{name}{pair}"
                root.mkdir()
                seconds[name].append(run(root, url, given.threads, given.categories))
                counts[name] = rows(root)
            assert counts["stock"] == counts["ours"], counts
            print(
                f"pair {pair}: {counts['ours']} entries; wall (CPU) seconds: "
                + ", ".join(f"{name} {some[-1][0]:.1f} ({some[-1][1]:.1f})" for name, some in seconds.items()),
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    told: dict[str, object] = {"entries": counts["ours"]}
    for place, kind in enumerate(("wall", "cpu")):
        mine, theirs = ([some[place] for some in seconds[name]] for name in ("ours", "stock"))
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        told |= {f"{kind}_ratio_stock": statistics.median(ratios), f"{kind}_interval": [min(ratios), max(ratios)]}
        told |= {f"ours_{kind}_s": statistics.median(mine), f"stock_{kind}_s": statistics.median(theirs)}
    print(
        json.dumps(
            {
                "benchmark": "bfcl",
                **told,
                "threads": given.threads,
                "machine": platform.processor() or platform.machine(),
                "cpus": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
