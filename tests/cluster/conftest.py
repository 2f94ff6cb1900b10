"""Fixtures of the tests on the development cluster; its table of faults is printed at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster import faults_chain, faults_jobs, faults_nodes, registry
from tests.cluster.chained import OTHERS, Chain, Checkout
from tests.cluster.registry import FAULTS, Line, Performance, Scene, table
from tests.cluster.slurm_view import Here

TABLE: list[Line] = []
__all__ = ["faults_chain", "faults_jobs", "faults_nodes", "registry"]


@pytest.fixture(scope="session")
def here() -> Here:
    return Here.find()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Checkout:
    made = Checkout.make(tmp_path_factory.mktemp("checkout"))
    made.cluster("plain", exclude=OTHERS)
    made.cluster("pinned", exclude="node[1-2]")
    return made


@pytest.fixture(scope="session")
def undisturbed(checkout: Checkout, here: Here, request) -> Scene:
    """Both stages trained with nobody in the way, on one node and on two."""
    prepared, pair = Chain(checkout, here, "prepared"), Chain(checkout, here, "pair", "tiny2")
    prepared.submit("surgery", "teacher", "data", "stage1", "stage2")
    prepared.done("surgery", "teacher", "data")
    pair.start_from(prepared, trained=False)
    pair.submit("stage1", "stage2")
    for chain in (prepared, pair):
        chain.done("stage1", "stage2")
        assert len(chain.jobs("stage1")) == len(chain.jobs("stage2")) == 1
    short = "short" in request.config.getoption("markexpr")
    return Scene(checkout, here, prepared, pair, limits=1 if short else 3)


@pytest.fixture(scope="session")
def performance(undisturbed: Scene, request) -> Iterator[Performance]:
    wanted = [item.callspec.params["name"] for item in request.session.items if "performance" in item.fixturenames]
    played = Performance(undisturbed, [FAULTS[name] for name in wanted], int(os.environ.get("AT_ONCE", "3")))
    yield played
    played.close()
    TABLE.extend(played.lines)


def pytest_terminal_summary(terminalreporter) -> None:
    if TABLE:
        terminalreporter.write_sep("=", "faults on the development cluster")
        terminalreporter.write_line(table(TABLE))
