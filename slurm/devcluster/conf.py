"""The texts that Slurm's daemons read."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.devcluster.layout import NODES, Layout, Options

CPUS, MEMORY_MB, GPUS = 8, 32768, 8
"""What each node claims to have; nothing enforces it."""
CONTROLLER = "ctl"


@dataclass(frozen=True)
class Place:
    """How the daemons reach each other: a name, an address and a port for the controller and for each node."""

    controller: tuple[str, str, int]
    nodes: tuple[tuple[str, str, int], ...]
    accounting: int
    database: int


def apart() -> Place:
    """Every node has its own network: ports can be the same everywhere, and nobody else sees them."""
    nodes = tuple((name, f"10.77.0.1{number}", 6818) for number, name in enumerate(NODES, 1))
    return Place((CONTROLLER, "10.77.0.1", 6817), nodes, 6819, 3306)


def together() -> Place:
    """All on this host, told apart by ports that are free."""
    ports = free_ports(len(NODES) + 3)
    host = socket.gethostname().partition(".")[0]
    nodes = tuple((host, "127.0.0.1", port) for port in ports[3:])
    return Place((host, "127.0.0.1", ports[0]), nodes, ports[1], ports[2])


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _me() -> str:
    """Whom the daemons run as; a container's user may have no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def slurm_conf(layout: Layout, options: Options, place: Place) -> str:
    """slurm.conf, with quick turns: what takes minutes on a production cluster takes seconds here."""
    host, address, port = place.controller
    short = layout.short
    lines = [
        "ClusterName=devcluster",
        f"SlurmctldHost={host}({address})",
        f"SlurmctldPort={port}",
        f"SlurmUser={_me()}",
        f"SlurmdUser={_me()}",
        "AuthType=auth/munge",
        # An expired credential is what a requeued job waits for.
        f"AuthInfo=socket={layout.munge},cred_expire=5",
        "CredType=cred/munge",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=5",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "PriorityType=priority/basic",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "SlurmdParameters=config_overrides",
        "ReturnToService=1",  # the default of most sites: a node that a person set down stays down
        "GresTypes=gpu",
        f"StateSaveLocation={short}/state",
        f"SlurmdSpoolDir={short}/spool/%n",
        f"SlurmctldPidFile={short}/run/slurmctld.pid",
        f"SlurmdPidFile={short}/run/slurmd-%n.pid",
        f"SlurmctldLogFile={layout.log('slurmctld')}",
        f"SlurmdLogFile={short}/log/slurmd-%n.log",
        "SlurmctldDebug=info",
        "SlurmdDebug=info",
        "CompleteWait=0",
        "KillWait=5",
        "InactiveLimit=0",
        "MessageTimeout=30",
        "SlurmctldTimeout=60",
        "SlurmdTimeout=20",
        "OverTimeLimit=0",
        "DefMemPerCPU=1024",
        *(_FRIENDLY if options.friendly else _UNFRIENDLY),
        *_accounting(layout, options, place),
        *_nodes(place),
        f"PartitionName=gpu Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE DefaultTime=60 State=UP",
        f"PartitionName=cpu Nodes={','.join(NODES)} MaxTime=INFINITE DefaultTime=60 State=UP",
    ]
    return "\n".join(lines) + "\n"


_FRIENDLY = ("DependencyParameters=kill_invalid_depend", "KillOnBadExit=1", "MinJobAge=3600")
_UNFRIENDLY = ("KillOnBadExit=0", "MinJobAge=300")


def _accounting(layout: Layout, options: Options, place: Place) -> Sequence[str]:
    if not options.database:
        return ("AccountingStorageType=accounting_storage/none",)
    return (
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={place.controller[1]}",
        f"AccountingStoragePort={place.accounting}",
        # Without it sacct asks munge at its default place.
        f"AccountingStoragePass={layout.munge}",
    )


def _nodes(place: Place) -> list[str]:
    size = (
        f"CPUs={CPUS} Boards=1 SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY_MB} "
        f"Gres=gpu:{GPUS} State=UNKNOWN"
    )
    return [
        f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={port} {size}"
        for name, (host, address, port) in zip(NODES, place.nodes, strict=True)
    ]


def gres_conf() -> str:
    """GPUs that nobody opens. With device files Slurm numbers them in CUDA_VISIBLE_DEVICES; any such files will do."""
    if all(Path(f"/dev/tty{number}").is_char_device() for number in range(GPUS)):
        return f"Name=gpu File=/dev/tty[0-{GPUS - 1}]\n"
    return f"Name=gpu Count={GPUS}\n"


def slurmdbd_conf(layout: Layout, place: Place, password: str) -> str:
    """slurmdbd.conf; holds a password and is written with mode 0600."""
    host, address, _ = place.controller
    lines = [
        f"DbdHost={host}",
        f"DbdAddr={address}",
        f"DbdPort={place.accounting}",
        f"SlurmUser={_me()}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={layout.munge}",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={place.database}",
        "StorageUser=slurm",
        f"StoragePass={password}",
        "StorageLoc=slurm_acct",
        f"LogFile={layout.log('slurmdbd')}",
        f"PidFile={layout.short}/run/slurmdbd.pid",
        "DebugLevel=info",
        "CommitDelay=0",
    ]
    return "\n".join(lines) + "\n"
