"""The stock ``bfcl`` command with our model names, and a dump of its data; runs inside ``.venv-bfcl``.

usage: python -I bfcl_cli.py dump FOLDER                 tools.jsonl, questions.jsonl, truth.jsonl
       python -I bfcl_cli.py generate|evaluate OPTIONS   exactly the options of ``bfcl``

Nothing in the package is edited. Names registered: the two of NAMES, and those of the variable OCTUPUS_BFCL_NAMES
(``name`` or ``name=served name``, separated by blanks). OCTUPUS_BFCL_IDS replaces ``test_case_ids_to_generate.json``
for ``--run-ids``, so that several tasks can share one project folder. OCTUPUS_BFCL_URLS: the replicas of the server,
separated by blanks; entries are spread over them, each entry's turns stay with one (which has their prefix cached).

What ``dump`` writes, one JSON object a line, tools as the harness sends them:
    tools.jsonl      {"digest", "tool": {"type": "function", ...}, "categories": [...], "original": Java/JS only}
    questions.jsonl  {"id", "category", "turns": [[message, ...], ...], "tools": [digest, ...],
                      "added": {turn: [digest, ...]}}     tools that join at a later turn (miss_func)
    truth.jsonl      {"id", "category", "truth": as in the package}   no line for (ir)relevance
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

VENDORS = (
    *("anthropic", "boto3", "cohere", "datamodel_code_generator", "google.genai", "mistralai", "qwen_agent"),
    "writerai",
)
"""Clients of other companies' models. The package imports them all; none of them talks to a model of ours."""
NAMES = ("octupus-FC", "gpt-4-turbo-2024-04-09-FC=gpt-4-turbo-2024-04-09")


class Blank(type):
    """A class that stands for whatever is looked up in it, so that handlers which are never used can be defined."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank(name, (Exception,), {})


class BlankModule(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        return getattr(Blank(self.__name__, (), {}), name)


class WithoutVendors(MetaPathFinder, Loader):
    """Importing the vendors' clients is more than half of the harness's start, and a hundred megabytes."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        ours = any(name == vendor or name.startswith(f"{vendor}.") for vendor in VENDORS)
        return ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return BlankModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


def watched_handler() -> type:
    """The stock chat-completions handler, watched: what it asks and gets is unchanged, every reply is also noted."""
    from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

    class Watched(OpenAICompletionsHandler):  # type: ignore[misc]
        _now = threading.local()

        @property
        def client(self) -> Any:
            """Of the replica that this thread's entry was given to."""
            return getattr(self._now, "client", self._clients[0])

        @client.setter
        def client(self, made: Any) -> None:
            urls = os.environ.get("OCTUPUS_BFCL_URLS", "").split()
            self._clients = [made.copy(base_url=url) for url in urls] or [made]
            self._turns = itertools.cycle(self._clients)

        def inference(self, *args: Any, **kwargs: Any) -> Any:
            self._now.replies, self._now.client = [], next(self._turns)
            result, metadata = super().inference(*args, **kwargs)
            return result, {**metadata, "replies": self._now.replies}

        def generate_with_backoff(self, **kwargs: Any) -> Any:
            _, _, seed = str(getattr(self, "registry_name", "")).rpartition("-seed")
            if seed.isdigit():
                kwargs["seed"] = int(seed)
            response, seconds = super().generate_with_backoff(**kwargs)
            self._now.replies.append(note(kwargs.get("tools", []), response, seconds))
            return response, seconds

        def write(self, result: Any, result_dir: Any, update_mode: bool = False) -> None:
            # The stock update mode rewrites the whole file for each entry: slow, and a kill in between loses entries.
            # No id is ever written twice here (those present are not asked again), so appending is the same.
            super().write(result, result_dir, update_mode=False)

    return Watched


def note(tools: list[dict[str, Any]], response: Any, seconds: float) -> dict[str, Any]:
    """What scores need of one reply and the harness does not keep: the tools it chose from and how it ended."""
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    plain = response.model_dump(mode="json") if hasattr(response, "model_dump") else {}
    choice = (plain.get("choices") or [{}])[0]
    calls = []
    for call in (choice.get("message") or {}).get("tool_calls") or []:
        name, arguments = ((call.get("function") or {}).get(key) for key in ("name", "arguments"))
        told = {"incomplete": bool(call.get("incomplete")), "offered": name in offered, "parameters": offered.get(name)}
        calls.append({"name": name, "arguments": arguments, **told})
    told = {"finish_reason": choice.get("finish_reason"), "usage": plain.get("usage"), "seconds": seconds}
    return {**told, "calls": calls}


def register(names: tuple[str, ...]) -> None:
    """Add ``name[=served name]`` to the harness's models, all through its plain chat-completions handler."""
    from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING, ModelConfig

    handler, unknown = watched_handler(), {"url": "-", "org": "-", "license": "-"}
    for entry in names:
        name, _, served = entry.partition("=")
        kind = {"model_handler": handler, "is_fc_model": True, "underscore_to_dot": True}
        MODEL_CONFIG_MAPPING[name] = ModelConfig(model_name=served or name, display_name=name, **unknown, **kind)


def hand_over() -> None:
    """Run the real command line."""
    from bfcl_eval import __main__ as stock
    from bfcl_eval import _llm_response_generation as generation

    if os.environ.get("OCTUPUS_BFCL_IDS"):
        generation.TEST_IDS_TO_GENERATE_PATH = Path(os.environ["OCTUPUS_BFCL_IDS"])
    # At its end generate rewrites EVERY result file to sort it, in place: a kill, or another task that appends
    # meanwhile, loses entries. evaluate sorts what it reads, so nobody needs it.
    generation.sort_file_content_by_id = lambda path: None
    stock.cli()


def dump(folder: Path) -> dict[str, int]:
    """Write the three files, each atomically; returns their line counts."""
    from bfcl_eval import utils
    from bfcl_eval.constants.category_mapping import ALL_SCORING_CATEGORIES
    from bfcl_eval.constants.enums import ModelStyle
    from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI
    from bfcl_eval.model_handler.utils import convert_to_tool

    tools: dict[str, dict[str, Any]] = {}
    questions, truths = [], []
    for category in ALL_SCORING_CATEGORIES:

        def digest_of(function: dict[str, Any], original: Any = None, category: str = category) -> str:
            (tool,) = convert_to_tool([function], GORILLA_TO_OPENAPI, ModelStyle.OPENAI_COMPLETIONS)
            digest = hashlib.sha256(json.dumps(tool, ensure_ascii=False).encode()).hexdigest()[:16]
            row = tools.setdefault(digest, {"digest": digest, "tool": tool, "categories": [], "original": original})
            row["categories"] += [] if category in row["categories"] else [category]
            return digest

        plain = utils.load_dataset_entry(category, include_language_specific_hint=False)
        foreign = category in ("simple_java", "simple_javascript")  # their conversion hides the types
        for entry, bare in zip(utils.load_dataset_entry(category), plain, strict=True):
            originals = bare["function"] if foreign else [None] * len(entry["function"])
            late = entry.get("missed_function", {})
            row = {"id": entry["id"], "category": category, "turns": entry["question"]}
            row["tools"] = [digest_of(f, original) for f, original in zip(entry["function"], originals, strict=True)]
            questions.append({**row, "added": {turn: [digest_of(f) for f in some] for turn, some in late.items()}})
        if "relevance" not in category:
            asked = [e["id"] for e in utils.load_dataset_entry(category, include_prereq=False)]
            known = utils.load_ground_truth_entry(category)  # aligned by position: some ids differ
            pairs = zip(asked, known, strict=True)
            truths += [{"id": id, "category": category, "truth": row["ground_truth"]} for id, row in pairs]
    rows = {"tools": list(tools.values()), "questions": questions, "truth": truths}
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in lines), encoding="utf-8")
        temporary.replace(folder / f"{name}.jsonl")
    return {name: len(lines) for name, lines in rows.items()}


def die_with_parent(parent: str | None) -> None:
    """End when the stage that started this ends, however it ends: nobody else would stop a long run."""
    if parent:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):
            sys.exit("the stage that started this has ended")


def main() -> None:
    sys.meta_path.insert(0, WithoutVendors())
    die_with_parent(os.environ.get("OCTUPUS_BFCL_PARENT"))
    if sys.argv[1:2] == ["dump"] and len(sys.argv) == 3:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BFCL_PROJECT_ROOT"] = folder  # read on import, which makes folders there
            print(json.dumps(dump(Path(sys.argv[2]).absolute())))
        return
    known = {entry.partition("=")[0] for entry in NAMES}
    more = [name for name in os.environ.get("OCTUPUS_BFCL_NAMES", "").split() if name not in known]
    register((*NAMES, *more))
    hand_over()


if __name__ == "__main__":
    main()
