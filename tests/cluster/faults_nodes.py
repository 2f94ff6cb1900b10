"""Faults of Slurm itself: a node set down, a dead slurmd, a controller that restarts or forgets."""

from __future__ import annotations

import signal

from tests.cluster.chained import Chain
from tests.cluster.registry import Scene, fault
from tests.cluster.slurm_view import dead, job, node_state, nodes_of, signal_all, slurm, until


@fault("node set down", node=True)
def node_down(scene: Scene) -> str:
    chain = scene.chain(cluster="pinned")
    chain.submit("stage1", "stage2")
    job_id, ranks = chain.hold("stage1", 8)
    (node,) = nodes_of(job_id)
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        until(lambda: node_state(node).startswith("down"), f"{node} is down", 60)
        until(lambda: dead(ranks.values()), "what ran there has ended", 120)
        scene.happened(f"{node} down, its rank dead")
        chain.done("stage1", "stage2")
        assert node not in nodes_of(chain.state("stage1").job)
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    chain.same_as(scene.prepared, "stage1", "stage2")
    return "went on from step 8 on another node; stage 2 done"


@fault("slurmd killed", node=True)
def slurmd_killed(scene: Scene) -> str:
    """The rank lives on after Slurm has given its node up, and wakes while its successor works."""
    chain = scene.chain(cluster="pinned")
    chain.submit("stage1", "stage2")
    job_id, ranks = chain.hold("stage1", 8)
    (node,) = nodes_of(job_id)
    scene.here.kill_daemon(f"slurmd-{node}")
    try:
        until(lambda: node_state(node).startswith("down"), f"Slurm finds {node} down", 180)
        assert not dead(ranks.values())
        later = until(lambda: _started_again(chain, node), "stage 1 starts on another node", 300)
        signal_all(ranks.values(), signal.SIGCONT)
        until(lambda: dead(ranks.values()), "the rank of the lost node gives way", 120)
        scene.happened(f"{node} down, its rank alive; it ended when {later} took over")
        chain.done("stage1", "stage2")
    finally:
        scene.here.start_node(node)
    chain.same_as(scene.prepared, "stage1", "stage2")
    return "went on from step 8 on another node; the old rank wrote nothing more"


def _started_again(chain: Chain, node: str) -> str:
    state = chain.state("stage1")
    begun = state is not None and state.status == "running" and (state.attempt, state.restart) > (1, 0)
    where = nodes_of(state.job) if begun else [node]
    return where[0] if where and where != [node] else ""


@fault("slurmctld restarted", alone=True)
def controller_restarted(scene: Scene) -> str:
    chain = scene.chain()
    chain.submit("stage1", "stage2")
    job_id, ranks = chain.hold("stage1", 8)
    scene.here.kill_daemon("slurmctld")
    signal_all(ranks.values(), signal.SIGCONT)
    until(lambda: dead(ranks.values()), "stage 1 ends while nobody answers", 300)
    scene.happened("slurmctld dead while stage 1 ended")
    scene.here.start_controller()
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    assert chain.jobs("stage1") == [job_id] and len(chain.jobs("stage2")) == 1
    return "the end was believed when Slurm told it; stage 2 done"


@fault("stage 1 failed yesterday, forgotten by Slurm", alone=True)
def forgotten(scene: Scene) -> str:
    """Alone, because a controller forgets everybody's jobs."""
    chain = scene.chain()
    shards = chain.run.stage("data").path / "stage1"
    aside = shards.with_name("aside")
    shards.rename(aside)
    chain.submit("stage1")
    (old,) = chain.jobs("stage1")
    chain.failed("stage1")
    chain.at_rest()
    conf = scene.here.layout.conf
    text = conf.read_text()
    try:
        conf.write_text("\n".join("MinJobAge=2" if x.startswith("MinJobAge") else x for x in text.splitlines()) + "\n")
        slurm("scontrol", "reconfigure")
        until(lambda: not job(old), f"Slurm forgets job {old}", 120)
    finally:
        conf.write_text(text)
        slurm("scontrol", "reconfigure")
    scene.happened(f"Slurm knows no job {old}")
    aside.rename(shards)
    said = chain.submit("stage2", fails=True)
    assert f"stage1 was submitted as job {old} and has not succeeded" in said and not chain.jobs("stage2")
    chain.submit("stage1", "stage2")
    (waiting,) = chain.jobs("stage2")
    assert len(chain.jobs("stage1")) == 2 and f"afterok:{chain.jobs('stage1')[1]}" in job(waiting)["Dependency"]
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    return "not taken for a success: refused with the reason; asked for, run again, stage 2 linked to the new job"
