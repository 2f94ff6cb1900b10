"""Special tokens into a base model's tokenizer and embeddings."""

from __future__ import annotations

from typing import Any

from octupus.wire.dialect import Dialect


def extend_tokenizer(spec: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """``tokenizer.json`` with the dialect's tokens added (those it lacks, behind the last id) and without a normaliser."""
    added = list(spec["added_tokens"])
    known = {t["content"] for t in added}
    next_id = 1 + max([*spec["model"]["vocab"].values(), *(t["id"] for t in added)])
    for special in dialect.special_tokens:
        if special.token not in known:
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            added.append({"id": next_id, "content": special.token, **flags})
            next_id += 1
    return {**spec, "added_tokens": added, "normalizer": None}
