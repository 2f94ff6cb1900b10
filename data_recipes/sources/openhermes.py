"""OpenHermes-2.5: as published (``raw``), or its questions answered anew by Qwen2.5-72B-Instruct (``rewrite``).

Our own answers are the source ``teacher_answers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_recipes.sources.openai_format import to_conversation
from octupus.data.files import records
from octupus.errors import DataError

HUB = {"rewrite": "hqfx/openhermes-2.5-qwen-rewrite", "raw": "teknium/OpenHermes-2.5"}
LICENCE = {"rewrite": "none stated; questions from teknium/OpenHermes-2.5", "raw": "none stated on the card; check"}

__all__ = ["HUB", "LICENCE", "rows", "to_conversation"]


def rows(path: Path | None, variant: str = "rewrite") -> Iterator[dict[str, Any]]:
    """Every row; both variants are ShareGPT or OpenAI messages."""
    if path is None:
        raise DataError(f"no path for variant {variant}", source="openhermes")
    return records(path, "openhermes")
