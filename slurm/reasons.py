"""Slurm's reasons in words: why a job waits or ended, and what a person can do about it."""

from __future__ import annotations

import re

WORDS = {
    "Priority": "others are ahead in the queue",
    "Resources": "the nodes that it asks for are busy",
    "Dependency": "waits for the jobs before it",
    "DependencyNeverSatisfied": "can never start: a job before it failed; cancel it",
    "BeginTime": "starts in a moment, as it was put back into the queue",
    "JobArrayTaskLimit": "as many tasks run as array_parallel of the cluster file allows",
    "JobHeldUser": "held by its owner; scontrol release it",
    "JobHeldAdmin": "held by an administrator; ask them",
    "launch failed requeued held": "could not be launched and is held; see `exclude`, then scontrol release it",
    "JobHoldMaxRequeue": "put back into the queue too often and is held; scontrol release it",
    "ReqNodeNotAvail": "a node that it asks for is down, drained or reserved",
    "Nodes required for job are DOWN, DRAINED or reserved": "a node that it asks for is down, drained or reserved",
    "NodeDown": "a node that it asks for is down",
    "Reservation": "waits for its reservation",
    "Cleaning": "being cleaned up after its last attempt",
    "Prolog": "its nodes are being prepared",
    "Licenses": "waits for a licence",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs now",
    "PartitionNodeLimit": "asks for more nodes than the partition gives; change the partition or the recipe's nodes",
    "PartitionTimeLimit": "asks for more time than the partition allows; lower time_min of the cluster file",
    "PartitionConfig": "asks for what the partition does not have; see the cluster file",
    "BadConstraints": "no node fulfils its constraint; see constraint of the cluster file",
    "InvalidAccount": "the account is not valid; see account of the cluster file",
    "InvalidQOS": "the QOS is not valid; see qos of the cluster file",
    "NonZeroExitCode": "ended with an error",
    "RaisedSignal": "was killed by a signal",
    "NodeFail": "its node failed",
    "TimeLimit": "reached its time limit",
    "OutOfMemory": "took more memory than it asked for; raise memory_gb of the cluster file",
    "JobLaunchFailure": "could not be launched on its nodes",
    "SystemFailure": "Slurm itself failed on its nodes",
    "FailedLaunch": "could not be launched on its nodes",
}
STATES = {
    "BOOT_FAIL": "its node did not boot",
    "CANCELLED": "was cancelled",
    "DEADLINE": "its deadline has passed",
    "FAILED": "ended with an error",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": WORDS["OutOfMemory"],
    "PREEMPTED": "was preempted",
    "TIMEOUT": WORDS["TimeLimit"],
}
LIMIT = re.compile(r"(QOS|Assoc)(Grp|Max)(\w+?)(?:Per(User|Account|Acct|Job|Node|UserLimit))?(?:Limit)?")
COUNTED = (
    ("GRESMinutes", "GPU minutes"),
    ("GRESRunMinutes", "GPU minutes"),
    ("GRES", "GPUs"),
    ("CPUMinutes", "CPU minutes"),
    ("Cpu", "CPUs"),
    ("CPU", "CPUs"),
    ("Mem", "memory"),
    ("Node", "nodes"),
    ("Submit", "jobs submitted"),
    ("Job", "jobs"),
    ("Wall", "time"),
    ("Billing", "billing"),
)


def told(reason: str) -> str:
    """A reason as squeue gives it (``Priority``, ``QOSMaxGRESPerUser``, ...) in words; an unknown one as it is."""
    plain = reason.strip("()")
    name = plain.split(",")[0].strip()
    if name in WORDS:
        return WORDS[name]
    limit = LIMIT.fullmatch(name)
    if limit is None:
        return plain
    whose = "the QOS" if limit[1] == "QOS" else "the account"
    what = next((words for part, words in COUNTED if limit[3].startswith(part)), limit[3])
    each = {"User": " a user", "Job": " a job", "Node": " a node"}.get(limit[4] or "", "")
    return f"{whose}'s limit of {what}{each} is reached ({name})"


def ended(state: str, code: int = 0, signal: int = 0) -> str:
    """How a job ended that did not succeed."""
    why = STATES.get(state, state.lower())
    if state == "FAILED" and (code or signal):
        return f"was killed by signal {signal}" if signal else f"ended with code {code}"
    return why
