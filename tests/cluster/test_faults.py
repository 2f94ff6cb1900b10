"""Each fault, injected for real, ends in the right state, with the losses of a run that nobody disturbed."""

from __future__ import annotations

import pytest

from tests.cluster.registry import FAULTS, Performance

pytestmark = pytest.mark.cluster
# The one that mostly waits comes first: the others fill its time.
ORDER = sorted(FAULTS.values(), key=lambda entry: (entry.alone, entry.name != "time_limit"))
NAMES = [pytest.param(e.name, marks=[pytest.mark.short] if e.short else [], id=e.name) for e in ORDER]


@pytest.mark.parametrize("name", NAMES)
def test_fault(name: str, performance: Performance) -> None:
    performance.result(name)


def test_the_table_has_every_fault() -> None:
    assert len(FAULTS) >= 14
