"""A dialect's special tokens into a base model: tokenizer files, embedding rows, chat template and ``wire.json``.

Works on the safetensors files themselves: only the shards that hold embeddings are rewritten, the others are linked or
copied, no model class is built and nobody's code is run. By hand: ``python -m octupus.surgery --model X --out Y``.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octupus.config import Recipe
from octupus.errors import ConfigError, JobError, OctupusError
from octupus.publish import publish_json
from octupus.runs import Run
from octupus.tokenizer import HfTokenizer, load_tokenizer
from octupus.wire import Dialect, Wire, make_dialect, write_wire
from octupus.wire.export import FILE as WIRE_FILE

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
INPUT, OUTPUT = "embed_tokens.weight", "lm_head.weight"
ROW_MULTIPLE = 64
"""A resized matrix has a multiple of this many rows, which tensor parallelism and tensor cores like."""


def extend_tokenizer(spec: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """``tokenizer.json`` with the dialect's tokens, those it lacks behind its last id, and without a normaliser."""
    added = list(spec["added_tokens"])
    known = {t["content"] for t in added}
    next_id = 1 + max([*spec["model"]["vocab"].values(), *(t["id"] for t in added)])
    for special in dialect.special_tokens:
        if special.token not in known:
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            added.append({"id": next_id, "content": special.token, **flags})
            next_id += 1
    return {**spec, "added_tokens": added, "normalizer": None}


def operate(model: Path, out: Path, dialect_name: str = "octupus", system: str | None = None) -> dict[str, Any]:
    """Make ``out`` from ``model``; what ``out`` held is replaced once the new folder is whole. Idempotent.

    Args:
        model: a folder with ``config.json``, tokenizer files and safetensors.
        out: the folder to make.
        system: replaces the dialect's default system message.

    Returns:
        The report: tokens with ids and origin, rows before and after, tied or not, fingerprint.

    Raises:
        ConfigError: the model is missing or in a form that cannot be used. JobError: it cannot be written.
    """
    check_replaceable(model, out)
    base = load_tokenizer(model)
    dialect = make_dialect(dialect_name, base)
    if system is not None:
        dialect = dialect.model_copy(update={"default_system": system})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            scratch = Path(name) / out.name
            scratch.mkdir()
            tokenizer = HfTokenizer(
                extend_tokenizer(base.spec, dialect), base.token(base.eos_id), base.chat_template, str(model)
            )
            wire = Wire(dialect, tokenizer)
            report = {"model": str(model), "out": str(out), "dialect": dialect.name, "fingerprint": wire.fingerprint}
            report |= _weights(model, scratch, base, wire) | write_tokenizer(model, scratch, tokenizer)
            write_wire(scratch, wire)
            if out.exists():
                os.rename(out, Path(name) / "before")  # whole until the new one stands: a kill leaves no half of it
            os.rename(scratch, out)
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "make it writable, or choose another folder"
        raise JobError(f"surgery cannot write {out}: {error}; {hint}") from error
    return report


def check_replaceable(model: Path, out: Path) -> None:
    """Refuse to replace anything but what surgery itself has made.

    Raises:
        ConfigError: ``out`` is the model, holds it, or holds something else.
    """
    if model.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"--out {out} is the model itself or holds it; name another folder")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / WIRE_FILE).is_file()):
        raise ConfigError(f"--out {out} holds files that surgery did not make (no {WIRE_FILE}); name a new folder")


def write_tokenizer(model: Path, out: Path, tokenizer: HfTokenizer) -> dict[str, Any]:
    """Tokenizer files and generation config of ``model`` into ``out``, with the new tokens and without a normaliser."""
    spec, eos = tokenizer.spec, tokenizer.token(tokenizer.eos_id)
    _write_json(out / "tokenizer.json", spec, indent=None)
    config = _read_json(model / "tokenizer_config.json")
    pad = config.get("pad_token")
    pad = pad["content"] if isinstance(pad, dict) else pad
    if pad is None or pad == eos:  # padding must never equal a supervised token
        pad = next((t for t in tokenizer.added_tokens if t != eos and t.endswith("pad|>")), None)
    for stale in ("chat_template", "additional_special_tokens", "auto_map"):
        config.pop(stale, None)
    added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]}
    specials = [t["content"] for t in spec["added_tokens"] if t["special"] and t["content"] not in (eos, pad)]
    config |= {
        # transformers' Qwen2Tokenizer would put the NFC normaliser back; this class takes tokenizer.json as it is
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "extra_special_tokens": specials,
        "eos_token": eos,
        "pad_token": pad,
    }
    _write_json(out / "tokenizer_config.json", config)
    path = model / "generation_config.json"
    ids = {"eos_token_id": tokenizer.eos_id, "pad_token_id": None if pad is None else tokenizer.added_tokens[pad]}
    _write_json(out / "generation_config.json", (_read_json(path) if path.is_file() else {}) | ids)
    return {"eos": eos, "pad": pad, "tokenizer_size": tokenizer.size}


def _weights(model: Path, out: Path, base: HfTokenizer, wire: Wire) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    config = _read_json(model / "config.json")
    text = config.get("text_config", config)
    shards = _shards(model)
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    matrices = _matrices(model, shards, tied)
    rows = _new_rows(base, wire)
    size = wire.tokenizer.size
    resized: set[tuple[int, int]] = set()
    for shard in sorted(set(shards.values())):
        touched = [name for name in matrices if shards[name] == shard]
        if not touched:
            _link(model / shard, out / shard)
            continue
        try:
            tensors = load_file(model / shard)
        except SafetensorError as error:
            raise ConfigError(f"{model / shard} is damaged ({error}); fetch the model again") from error
        for name in touched:
            before = tensors[name].shape[0]
            tensors[name] = _edit(tensors[name], rows, size)
            resized.add((before, tensors[name].shape[0]))
        try:
            save_file(tensors, out / shard, metadata={"format": "pt"})
        except SafetensorError as error:
            raise JobError(f"surgery cannot write {out / shard}: {error}; free some space") from error
    if len(resized) != 1:
        raise ConfigError(f"{model}: input and output embeddings differ in rows: {sorted(resized)}")
    before, after = resized.pop()
    text["vocab_size"] = after
    config["eos_token_id"] = wire.tokenizer.eos_id
    config.pop("auto_map", None)  # it names code that this project never loads
    _write_json(out / "config.json", config)
    if (model / INDEX).is_file():
        _link(model / INDEX, out / INDEX)
    for notice in [*model.glob("LICENSE*"), *model.glob("NOTICE*")]:
        _link(notice, out / notice.name)
    likes = {s.token: s.like for s in wire.dialect.special_tokens}
    tokens = [
        {"token": token, "id": wire.tokenizer.added_tokens[token], "like": like, "new": token not in base.added_tokens}
        for token, like in likes.items()
    ]
    facts = {"rows_before": before, "rows_after": after, "resized": before != after, "tied": tied}
    return {"tokens": tokens, **facts, "spare_rows": after - size}


def _shards(model: Path) -> dict[str, str]:
    """Tensor name to the file that holds it."""
    from safetensors import SafetensorError, safe_open

    if (model / INDEX).is_file():
        found: dict[str, str] = _read_json(model / INDEX)["weight_map"]
        return found
    single = model / "model.safetensors"
    if not single.is_file():
        raise ConfigError(
            f"{model} holds no safetensors; other formats may hold code and are not read: convert it first"
        )
    try:
        with safe_open(str(single), framework="pt") as file:
            return dict.fromkeys(file.keys(), single.name)
    except SafetensorError as error:
        raise ConfigError(f"{single} is damaged ({error}); fetch the model again") from error


def _matrices(model: Path, shards: Mapping[str, str], tied: bool) -> list[str]:
    inputs = [name for name in shards if name.endswith(INPUT)]
    outputs = [name for name in shards if name.endswith(OUTPUT)]
    if len(inputs) != 1 or len(outputs) > 1 or (not tied and not outputs):
        raise ConfigError(f"{model}: expected one *{INPUT} and, where untied, one *{OUTPUT}; found {inputs + outputs}")
    return inputs + outputs


def _new_rows(base: HfTokenizer, wire: Wire) -> dict[int, list[int]]:
    """For each new id, the ids whose rows it starts as the mean of."""
    new = [s for s in wire.dialect.special_tokens if s.token not in base.added_tokens]
    return {wire.tokenizer.added_tokens[s.token]: base.encode(s.like) for s in new}


def _edit(matrix: Tensor, rows: Mapping[int, Sequence[int]], size: int) -> Tensor:
    """``matrix`` [rows, hidden] with new rows set, and grown to hold ``size`` ids where the spare rows do not."""
    import torch

    source = matrix.float()
    if matrix.shape[0] < size:
        grown = -(-size // ROW_MULTIPLE) * ROW_MULTIPLE
        mean = source.mean(dim=0, keepdim=True).to(matrix.dtype)
        matrix = torch.cat([matrix, mean.expand(grown - matrix.shape[0], -1)])
    matrix = matrix.clone()
    for id, like in rows.items():
        matrix[id] = source[list(like)].mean(dim=0).to(matrix.dtype)
    return matrix.contiguous()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; a model folder holds it. Fetch the model again, or name another")
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); fetch the model again") from error
    return value


def _write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def base_folder(model: str, revision: str | None = None) -> Path:
    """A folder as it is; a hub id as its snapshot, from the cache or (where the hub is not offline) fetched.

    Raises:
        ConfigError: there is no such model here or there.
    """
    if Path(model).is_dir():
        return Path(model)
    if model.count("/") != 1 or model.startswith((".", "~", "/")):
        raise ConfigError(f"missing base model: no folder {model!r}; name a folder or a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "NOTICE*"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"missing base model: {model!r} is neither a folder nor in the hub's cache, and fetching it failed "
            f"({type(error).__name__}); fetch it where there is internet (HF_ENDPOINT names a mirror), "
            "or set model.base to a folder"
        ) from error


def run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """The stage: the recipe's base, or ``surgery/base`` where the recipe builds one, to ``surgery/model``."""
    stage = run.stage("surgery")
    base = stage.path / "base" if recipe.model.base is None else base_folder(recipe.model.base, recipe.model.revision)
    report = operate(base, stage.path / "model", recipe.wire.dialect, recipe.wire.system)
    publish_json(stage.path / "report.json", report)
    print(describe(report), flush=True)
    return {"model": "surgery/model", "report": "surgery/report.json", "fingerprint": report["fingerprint"]}


def describe(report: Mapping[str, Any]) -> str:
    """The report as lines for a log."""
    grown = f"grown to {report['rows_after']}" if report["resized"] else "not resized"
    lines = [
        f"{report['model']} -> {report['out']}, dialect {report['dialect']}",
        f"embeddings: {report['rows_before']} rows, {grown}, {report['spare_rows']} spare, "
        f"{'tied' if report['tied'] else 'untied'}; end of turn {report['eos']}, padding {report['pad']}",
    ]
    for t in report["tokens"]:
        lines.append(f"  {t['id']} {t['token']}: {'mean of ' + repr(t['like']) if t['new'] else 'was there'}")
    return "\n".join([*lines, f"wire {report['fingerprint']}"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m octupus.surgery", description=__doc__)
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dialect", default="octupus")
    parser.add_argument("--system", help="replaces the default system message")
    parser.add_argument("--revision", help="of a hub id")
    given = parser.parse_args(arguments)
    try:
        print(describe(operate(base_folder(given.model, given.revision), given.out, given.dialect, given.system)))
    except OctupusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
