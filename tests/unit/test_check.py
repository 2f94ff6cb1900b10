"""What make cluster-check reads out of a job's log, where the log is whole and where it is not."""

from __future__ import annotations

import json
from pathlib import Path

from slurm import check
from slurm.check import MISSING, OVER, Part, Sent
from slurm.probe import MARK
from slurm.queue import Job

SENT = Sent(Part("gpu", ("stage1",)), "7", Path("/runs/.check/gpu"), 1, "gloo")
DONE = Job(id="7", state="COMPLETED", nodes="node1")


def said(name: str, told: str = "fine") -> str:
    return MARK + json.dumps({"node": "node1", "check": name, "ok": True, "told": told})


def wrong(*lines: str, job: Job | None = DONE) -> list[tuple[str, str]]:
    return [(f.check, f.told) for f in check.findings(SENT, job, lines) if not f.ok]


def test_a_whole_log_has_nothing_to_mend_also_where_a_library_prints_into_a_line() -> None:
    assert wrong(said("python"), f"[Gloo] Rank 0 is connected{said('all-reduce')}", OVER) == []


def test_an_all_reduce_without_a_figure_is_not_taken_for_sound() -> None:
    (found,) = wrong(said("python"), "Killed", OVER)
    assert found == ("all-reduce", "gloo gave no figure: Killed")


def test_an_empty_log_is_a_folder_that_is_not_shared() -> None:
    (found,) = wrong()
    assert found[0] == "folder" and "node1 does not share that folder" in found[1]


def test_a_node_without_a_folder_and_a_job_that_broke_off_are_named() -> None:
    lost = [told for _, told in wrong(f"{MISSING} node1 1", OVER)]
    assert lost == [f"node1 does not see {SENT.folder}: mount it there, or let checkout and OCTUPUS_RUNS lie where all "
                    "nodes see them"]  # fmt: skip
    broke = wrong(said("python"), job=Job(id="7", state="TIMEOUT", nodes="node1"))
    assert ("job", "it broke off (reached its time limit): no words") in broke
