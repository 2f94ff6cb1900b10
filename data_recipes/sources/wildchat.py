"""WildChat: real conversations, one language of them; toxic and redacted ones are passed over, not counted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from data_recipes.sources.openai_format import to_conversation
from octupus.data.files import data_files, records
from octupus.errors import DataError

HUB = {
    "dedup": "hqfx/wild_chat_en_zh_dedup_v2",
    "1M": "allenai/WildChat-1M",
    "nontoxic": "allenai/WildChat-nontoxic",
}
LICENCE = {"dedup": "none stated; from WildChat (ODC-BY)", "1M": "ODC-BY", "nontoxic": "AI2 ImpACT-LR"}

__all__ = ["HUB", "LICENCE", "rows", "to_conversation"]


def rows(path: Path | None, language: str = "English", variant: str = "dedup") -> Iterator[dict[str, Any]]:
    """Rows of one language; where files are named after languages (splits), only those files are read."""
    if path is None:
        raise DataError(f"no path for variant {variant}", source="wildchat")
    files = data_files(path, "wildchat")
    own = [file for file in files if file.name.lower().startswith(language.lower())]
    found = chain.from_iterable(records(file, "wildchat") for file in own or files)
    return (row for row in found if row.get("language", language) == language and not _unfit(row))


def _unfit(row: dict[str, Any]) -> bool:
    turns = row.get("conversation") or []
    return any(part.get("toxic") or part.get("redacted") for part in (row, *turns))
