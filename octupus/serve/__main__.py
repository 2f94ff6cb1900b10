"""``python -m octupus.serve --model DIR_OR_ID --tensor-parallel-size 1 --max-model-len 8192 --port 8000``"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from octupus.config import ServeSection, scalar
from octupus.errors import ConfigError, OctupusError, explain
from octupus.runs import Run
from octupus.serve.app import build_app
from octupus.serve.operate import Publication, serve


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m octupus.serve", description="Serve a checkpoint over OpenAI's chat API."
    )
    p.add_argument("--model", required=True, metavar="DIR_OR_ID", help="a checkpoint's folder, or a Hugging Face id")
    p.add_argument("--tensor-parallel-size", type=int, dest="tensor_parallel")
    p.add_argument("--max-model-len", type=int)
    p.add_argument("--host")
    p.add_argument("--port", type=int, help="0: any free one")
    p.add_argument("--dialect", help="octupus, octupus-v1 or qwen; needed where the folder has no wire.json")
    p.add_argument("--engine", help="vllm (default), scripted or module:Class")
    p.add_argument("--served-model-name", help="the name that answers bear; default: the folder's")
    p.add_argument("--default-max-tokens", type=int, help="output limit of requests that name none")
    p.add_argument("--api-key-file", help="one key a line, mode 0600")
    p.add_argument("--run", type=Path, metavar="RUN_FOLDER", help="publish the endpoint in this run folder")
    p.add_argument("--replica", default="0", help="the endpoint's name in the run folder")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any field of the recipe's serve section"
    )
    return p


def section_of(arguments: argparse.Namespace) -> ServeSection:
    """The serve section that the flags spell.

    Raises:
        ConfigError: naming the flag or key.
    """
    fields = ("tensor_parallel", "max_model_len", "host", "port", "engine", "default_max_tokens", "api_key_file")
    values: dict[str, Any] = {f: getattr(arguments, f) for f in fields if getattr(arguments, f) is not None}
    for pair in arguments.set:
        key, sign, text = pair.partition("=")
        if not sign:
            raise ConfigError(f"--set {pair!r} is not key=value, for instance --set max_concurrency=64")
        *outer, last = key.split(".")
        inside: Any = values
        for name in outer:
            inside = inside.setdefault(name, {}) if isinstance(inside, dict) else inside
        if not isinstance(inside, dict):
            raise ConfigError(f"--set {pair!r}: {'.'.join(outer)} is a value already, not a section")
        inside[last] = scalar(text, f"--set {key}")
    try:
        return ServeSection.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, ServeSection, "serve")) from error


def resolve(model: str) -> Path:
    """A folder as it is; a hub id as the folder of its snapshot.

    Raises:
        ConfigError: neither a folder nor a model that can be had.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder.absolute()
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ConfigError(f"--model {model}: no such folder, and no Hugging Face id (owner/name) either")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.pth", "*.gguf", "original/*"]))
    except (OSError, ValueError) as error:  # the hub's own errors are these: no answer, no such model, no such name
        raise ConfigError(
            f"--model {model}: no such folder, and the hub did not give it ({type(error).__name__})"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; 0 after a drain, 2 for what the command line got wrong, 1 for an engine that failed."""
    arguments = parser().parse_args(argv)
    try:
        section = section_of(arguments)
        known = None if arguments.run is None else Publication(Run(arguments.run), arguments.replica)
        name, model = arguments.served_model_name, resolve(arguments.model)
        serve(build_app, section, model, arguments.dialect, name=name, publication=known)
    except OctupusError as error:
        print(f"octupus.serve: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
