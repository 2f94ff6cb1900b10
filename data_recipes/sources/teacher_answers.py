"""What the run's own teacher stage answered: ``runs/<RUN>/teacher/merged``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_recipes.sources import openai_format
from octupus.data.files import records
from octupus.errors import DataError
from octupus.wire.messages import Conversation

LICENCE = "as the teacher model's licence states for its outputs"
HUB = "run:teacher/merged"


def rows(path: Path | None) -> Iterator[dict[str, Any]]:
    """Every answer, shard by shard, in the plan's order."""
    if path is None or not path.is_dir():
        raise DataError(f"no answers at {path}; run `make teacher` first", source="teacher_answers")
    return records(path, "teacher_answers")


def to_conversation(row: dict[str, Any]) -> Conversation:
    """The prompt and the teacher's answers; tools are as they were asked with."""
    return openai_format.to_conversation({**row, "repair": False})
