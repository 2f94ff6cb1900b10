"""`pip install .` alone gives wire, constrain and config: they must load where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "vllm", "deepspeed", "submitit", "aiohttp", "datasets"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import octupus.config, octupus.runs, octupus.wire, octupus.tokenizer, octupus.constrain
print("loaded")
"""


def test_wire_constrain_and_config_load_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded", done.stderr[-2000:]
