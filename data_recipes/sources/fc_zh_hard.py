"""fc_zh_hard: long Chinese calls in OpenAI's older form (``functions``, ``function_call``, role ``function``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_recipes.sources.openai_format import to_conversation
from octupus.data.files import records
from octupus.errors import DataError

HUB = "hqfx/fc_zh_hard"
LICENCE = "none stated on the card; check"

__all__ = ["HUB", "LICENCE", "rows", "to_conversation"]


def rows(path: Path | None) -> Iterator[dict[str, Any]]:
    """Every row."""
    if path is None:
        raise DataError("no path", source="fc_zh_hard")
    return records(path, "fc_zh_hard")
