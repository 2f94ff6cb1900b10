"""The stock ``bfcl`` command with our model names, and a dump of its data; runs inside ``.venv-bfcl``.

usage: python -I bfcl_cli.py dump FOLDER                 tools.jsonl, questions.jsonl, truth.jsonl
       python -I bfcl_cli.py generate|evaluate OPTIONS   exactly the options of ``bfcl``

Nothing in the package is edited. Names registered: the two of NAMES, and those of the variable OCTUPUS_BFCL_NAMES
(``name`` or ``name=served name``, separated by blanks). OCTUPUS_BFCL_IDS replaces ``test_case_ids_to_generate.json``
for ``--run-ids``, so that several tasks can share one project folder.

What ``dump`` writes, one JSON object a line, tools as the harness sends them:
    tools.jsonl      {"digest", "tool": {"type": "function", ...}, "categories": [...], "original": Java/JS only}
    questions.jsonl  {"id", "category", "turns": [[message, ...], ...], "tools": [digest, ...],
                      "added": {turn: [digest, ...]}}     tools that join at a later turn (miss_func)
    truth.jsonl      {"id", "category", "truth": as in the package}   no line for (ir)relevance
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

NAMES = ("octupus-FC", "gpt-4-turbo-2024-04-09-FC=gpt-4-turbo-2024-04-09")


def watched_handler() -> type:
    """The stock chat-completions handler, watched: what it asks and gets is unchanged, every reply is also noted."""
    from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

    class Watched(OpenAICompletionsHandler):  # type: ignore[misc]
        _now = threading.local()

        def inference(self, *args: Any, **kwargs: Any) -> Any:
            self._now.replies = []
            result, metadata = super().inference(*args, **kwargs)
            return result, {**metadata, "replies": self._now.replies}

        def generate_with_backoff(self, **kwargs: Any) -> Any:
            response, seconds = super().generate_with_backoff(**kwargs)
            self._now.replies.append(note(kwargs, response, seconds))
            return response, seconds

        def write(self, result: Any, result_dir: Any, update_mode: bool = False) -> None:
            # The stock update mode rewrites the whole file for each entry: slow, and a kill in between loses entries.
            # No id is ever written twice here (those present are not asked again), so appending is the same.
            super().write(result, result_dir, update_mode=False)

    return Watched


def note(request: dict[str, Any], response: Any, seconds: float) -> dict[str, Any]:
    """What scores need of one reply and the harness does not keep: the tools it chose from and how it ended."""
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in request.get("tools", [])}
    plain = response.model_dump(mode="json") if hasattr(response, "model_dump") else {}
    choice = (plain.get("choices") or [{}])[0]
    calls = (choice.get("message") or {}).get("tool_calls") or []
    functions = [(call.get("function") or {}, bool(call.get("incomplete"))) for call in calls]
    return {
        "finish_reason": choice.get("finish_reason"),
        "seconds": seconds,
        "usage": plain.get("usage"),
        "calls": [
            {
                "name": function.get("name"),
                "arguments": function.get("arguments"),
                "incomplete": incomplete,
                "offered": function.get("name") in offered,
                "parameters": offered.get(function.get("name")),
            }
            for function, incomplete in functions
        ],
    }


def register(names: tuple[str, ...]) -> None:
    """Add ``name[=served name]`` to the harness's models, all through its plain chat-completions handler."""
    from bfcl_eval.constants import model_config

    handler = watched_handler()
    for entry in names:
        name, _, served = entry.partition("=")
        if "_" in name:
            sys.exit(f"model name {name!r}: bfcl evaluate turns '_' into '/'; use '-' instead")
        model_config.MODEL_CONFIG_MAPPING[name] = model_config.ModelConfig(
            model_name=served or name,
            display_name=name,
            url="-",
            org="-",
            license="-",
            model_handler=handler,
            input_price=None,
            output_price=None,
            is_fc_model=True,
            underscore_to_dot=True,
        )


def hand_over() -> None:
    """Run the real command line."""
    from bfcl_eval import __main__ as stock
    from bfcl_eval import _llm_response_generation as generation

    ids = os.environ.get("OCTUPUS_BFCL_IDS")
    if ids:
        generation.TEST_IDS_TO_GENERATE_PATH = Path(ids)
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

    def digest_of(function: dict[str, Any], original: dict[str, Any] | None, category: str) -> str:
        (tool,) = convert_to_tool([function], GORILLA_TO_OPENAPI, ModelStyle.OPENAI_COMPLETIONS)
        digest = hashlib.sha256(json.dumps(tool, ensure_ascii=False).encode()).hexdigest()[:16]
        row = tools.setdefault(digest, {"digest": digest, "tool": tool, "categories": [], "original": original})
        if category not in row["categories"]:
            row["categories"].append(category)
        return digest

    questions, truths = [], []
    for category in ALL_SCORING_CATEGORIES:
        foreign = category in ("simple_java", "simple_javascript")
        entries = utils.load_dataset_entry(category)
        plain = (
            utils.load_dataset_entry(category, include_language_specific_hint=False)
            if foreign
            else [None] * len(entries)
        )
        for entry, bare in zip(entries, plain, strict=True):
            bare_functions = bare["function"] if bare else [None] * len(entry["function"])
            added = {
                turn: [digest_of(function, None, category) for function in functions]
                for turn, functions in entry.get("missed_function", {}).items()
            }
            questions.append(
                {
                    "id": entry["id"],
                    "category": category,
                    "turns": entry["question"],
                    "tools": [
                        digest_of(function, original, category)
                        for function, original in zip(entry["function"], bare_functions, strict=True)
                    ],
                    "added": added,
                }
            )
        if "relevance" not in category:
            asked = [e["id"] for e in utils.load_dataset_entry(category, include_prereq=False)]
            known = utils.load_ground_truth_entry(category)  # aligned by position: some ids differ
            truths += [
                {"id": id, "category": category, "truth": row["ground_truth"]}
                for id, row in zip(asked, known, strict=True)
            ]
    rows: dict[str, list[dict[str, Any]]] = {"tools": list(tools.values()), "questions": questions, "truth": truths}
    for name, lines in rows.items():
        write_lines(folder / f"{name}.jsonl", lines)
    return {name: len(lines) for name, lines in rows.items()}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)


def die_with_parent() -> None:
    """End when the stage that started this ends, however it ends: nobody else would stop a long run."""
    parent = os.environ.get("OCTUPUS_BFCL_PARENT")
    if parent:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):
            sys.exit("the stage that started this has ended")


def main() -> None:
    die_with_parent()
    if sys.argv[1:2] == ["dump"] and len(sys.argv) == 3:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BFCL_PROJECT_ROOT"] = folder  # read on import, which makes folders there
            print(json.dumps(dump(Path(sys.argv[2]).absolute())))
        return
    register(NAMES + tuple(os.environ.get("OCTUPUS_BFCL_NAMES", "").split()))
    hand_over()


if __name__ == "__main__":
    main()
