"""`pip install .` alone gives wire, constrain and config: they must load where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

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


WITHOUT = """
import sys
import octupus.constrain
assert "torch" not in sys.modules and "transformers" not in sys.modules
from lmformatenforcer import JsonSchemaParser, TokenEnforcer  # whole, for whoever asks for it
from octupus.constrain.parsers import JsonSchemaParser as ours
assert JsonSchemaParser is ours
print("loaded")
"""


def test_the_constraint_does_not_import_torch_where_it_is_installed() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded", done.stderr[-2000:]


def test_wire_constrain_and_config_load_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded", done.stderr[-2000:]


def test_the_development_cluster_needs_the_standard_library_alone() -> None:
    """Another user starts it with the system's Python, where nothing of ours is installed (-S: no site-packages)."""
    code = "import slurm.devcluster.__main__; print('loaded')"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded", done.stderr[-2000:]
