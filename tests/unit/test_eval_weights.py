"""The boards' arithmetic, held against figures that were printed by others."""

from __future__ import annotations

import pytest

from eval.weights import GROUPS, MEANS, SIZES, expand, overall, weights, wilson
from octupus.errors import ConfigError

# A perfect model's natural answers through the stock harness, percent; whatever is absent is 100.
CEILING = {"simple_java": 89.00, "live_simple": 99.22, "live_multiple": 99.72}


def accuracy(categories: list[str]) -> dict[str, float]:
    return {name: CEILING.get(name, 100.0) / 100 for name in categories}


@pytest.mark.parametrize("mean", MEANS)
def test_weights_add_up(mean: str) -> None:
    assert sum(weights(mean).values()) == pytest.approx(1)
    assert set(weights(mean)) <= set(SIZES)


def test_the_ceilings_summaries() -> None:
    measured = accuracy([*GROUPS["single_turn"], *GROUPS["multi_turn"]])
    found = {mean: overall(mean, measured, SIZES) for mean in MEANS}
    assert 100 * found["Non-Live AST"]["value"] == pytest.approx(99.08, abs=0.005)
    assert 100 * found["Live"]["value"] == pytest.approx(99.78, abs=0.005)
    assert 100 * found["Overall v3"]["value"] == pytest.approx(99.68, abs=0.005)
    assert found["Overall v3"]["missing"] == [] and found["Overall v3"]["covered"] == pytest.approx(1)
    assert found["Overall v4"]["zeroed"] <= 0.6, "without any agentic score the board's overall cannot exceed 60"


def test_one_category_alone_prints_what_the_stock_harness_prints() -> None:
    found = overall("Overall v4", accuracy(["live_multiple"]), SIZES)
    assert f"{100 * found['zeroed']:.2f}" == "7.77"
    assert found["value"] == pytest.approx(0.9972)
    assert "live_multiple" not in found["missing"] and len(found["missing"]) == 20


def test_nothing_measured_is_no_zero() -> None:
    found = overall("Multi Turn", {}, {})
    assert found["value"] is None and found["interval"] is None and found["covered"] == 0


def test_intervals() -> None:
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = overall("Multi Turn", {"multi_turn_base": 0.0}, {"multi_turn_base": 4})["interval"]
    assert low == 0 and high > 0.2, "four wrong answers do not prove a zero"


def test_groups_open_up_and_a_category_beats_its_group() -> None:
    found = expand({"multiple": 5, "non_live": None})
    assert list(found) == GROUPS["non_live"] and found["multiple"] == 5 and found["parallel"] is None
    with pytest.raises(ConfigError, match=r"simple_pyton.*simple_python"):
        expand({"simple_pyton": 1})
