"""What stands beside the weights: ``wire.json`` (the value and its fingerprint) and ``chat_template.jinja``."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from octupus.errors import WireError
from octupus.wire.bind import Bound
from octupus.wire.dialect import FORMAT_VERSION, Dialect
from octupus.wire.messages import Frozen, canonical_json
from octupus.wire.tokenizer import Tokenizer

FILE = "wire.json"


def fingerprint(bound: Bound) -> str:
    """``sha256:...`` over token table, texts, tokenizer and format version; equal exactly where ids mean the same."""
    value = {
        "format_version": FORMAT_VERSION,
        "dialect": bound.dialect.model_dump(mode="json"),
        "tokens": sorted(bound.tokens.items()),
        "tokenizer": bound.tokenizer.digest,
    }
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def check_fingerprint(found: str, expected: str, what: str, mend: str) -> None:
    """Refuse ``what`` (shards, a checkpoint, with its path), made with wire ``found`` where ``expected`` is in use.

    Raises:
        WireError: with both values and the command that mends it.
    """
    if found != expected:
        raise WireError(f"{what} was made with wire {found}, but the wire in use is {expected}; run: {mend}")


def write_wire(folder: Path, bound: Bound) -> None:
    """Write ``wire.json`` and ``chat_template.jinja`` into a model folder."""
    value = {"format_version": FORMAT_VERSION, "dialect": bound.dialect.model_dump(mode="json")}
    value["fingerprint"] = fingerprint(bound)
    (folder / FILE).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template(bound), encoding="utf-8")


def read_wire(folder: Path, tokenizer: Tokenizer) -> Dialect | None:
    """The dialect saved in ``folder``, or None where there is none.

    Raises:
        WireError: the file is broken, of another format version, or made for another tokenizer.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    mend = "make surgery FRESH=1 (and train again), or take the tokenizer that belongs to these weights"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, saved = raw["format_version"], raw["fingerprint"]
        if version != FORMAT_VERSION:
            raise WireError(f"{path}: format version {version}, this code writes {FORMAT_VERSION}; run: {mend}")
        dialect = Dialect.model_validate(raw["dialect"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise WireError(f"{path} is not a wire file ({error}); run: {mend}") from error
    check_fingerprint(saved, fingerprint(Bound(dialect, tokenizer)), str(path), mend)
    return dialect


def chat_template(bound: Bound) -> str:
    """Jinja source that gives the ids of ``render`` and ``render_prompt`` for conversations free of special strings.

    Messages are OpenAI's, arguments objects (a string is written as it is). Only where results are written as one JSON
    array must a result that is JSON be passed as the value, because Jinja cannot parse JSON.
    """
    fixed = _fixed(bound.dialect.model_copy(update={"end": bound.end}))
    lines = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8").splitlines()
    return re.sub(r"@(\w+)", lambda match: fixed[match.group(1)], "\n".join(lines))


def _fixed(value: Frozen, path: str = "") -> dict[str, str]:
    """Every string and flag of a dialect as a Jinja literal, under its path: ``calls_open``."""
    found: dict[str, str] = {}
    for name, inner in value:
        if isinstance(inner, Frozen):
            found |= _fixed(inner, f"{path}{name}_")
        elif inner is None or isinstance(inner, str | bool):
            found[path + name] = "none" if inner is None else json.dumps(inner, ensure_ascii=False)
    return found
