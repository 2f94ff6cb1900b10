"""Starts the daemons of a cluster, each only when the one that it needs answers."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence

from octupus.errors import ConfigError
from slurm.devcluster import conf
from slurm.devcluster.conf import Place
from slurm.devcluster.layout import NODES, Layout, Options
from slurm.devcluster.network import do, until

PACKAGES = {
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol"),
    "munge": ("munged", "munge"),
}
DATABASE = {
    "slurmdbd": ("slurmdbd",),
    "mariadb-server": ("mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin"),
}
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def path_with_sbin(path: str) -> str:
    """PATH with the folders of daemons, which ordinary users often lack."""
    parts = path.split(os.pathsep)
    return os.pathsep.join([*parts, *(folder for folder in SBIN if folder not in parts)])


def check_installed(options: Options) -> None:
    """Raises ConfigError with the packages that this machine lacks."""
    wanted = {**PACKAGES, **(DATABASE if options.database else {})}
    missing = [name for name, tools in wanted.items() if not all(shutil.which(tool) for tool in tools)]
    if missing:
        extra = ["slurm-wlm-mysql-plugin"] if "slurmdbd" in missing else []
        raise ConfigError(
            "the development cluster needs Slurm: as root, `apt-get install --no-install-recommends "
            f"{' '.join([*missing, *extra])}`"
        )


class Daemons:
    """The daemons of one cluster; ``on`` turns a command into one that runs on a node."""

    def __init__(
        self, layout: Layout, options: Options, place: Place, on: Callable[[str, Sequence[str]], list[str]]
    ) -> None:
        self.layout, self.options, self.place, self.on = layout, options, place, on

    def start(self) -> None:
        """Raises JobError: which one did not come up, and what it said."""
        etc = self.layout.short / "etc"
        (etc / "slurm.conf").write_text(conf.slurm_conf(self.layout, self.options, self.place))
        (etc / "gres.conf").write_text(conf.gres_conf())
        self._munge()
        if self.options.database:
            self._accounting()
        do("slurmctld", "-f", str(self.layout.conf))
        until("slurmctld does not answer", "scontrol", "ping")
        for node in NODES:
            (self.layout.short / "spool" / node).mkdir()
            do(*self.on(node, ["slurmd", "-f", str(self.layout.conf), "-N", node]))
        free = "\n".join(sorted(NODES))
        until("not every node is idle", "sinfo", "-h", "-N", "-p", "gpu", "-t", "idle", "-o", "%N", says=free)

    def _munge(self) -> None:
        run, key = self.layout.short / "run", self.layout.short / "etc" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        do(
            "munged",
            "--force",  # folders that others may write to, such as a checkout's, are no reason to refuse
            f"--key-file={key}",
            f"--socket={self.layout.munge}",
            f"--pid-file={run}/munged.pid",
            f"--seed-file={run}/munged.seed",
            f"--log-file={self.layout.log('munged')}",
            "--num-threads=4",
        )
        until("munged does not answer", "munge", f"--socket={self.layout.munge}", "-n")

    def _accounting(self) -> None:
        """MariaDB on loopback, slurmdbd before it."""
        short, log = self.layout.short, self.layout.log("mariadb")
        root = ("--user=root",) if os.geteuid() == 0 else ()
        made = ("--auth-root-authentication-method=normal", "--skip-test-db")
        do("mariadb-install-db", "--no-defaults", f"--datadir={short}/db", *made, *root, timeout_s=120)
        socket = f"--socket={short}/run/mysql.sock"
        with log.open("ab") as stream:
            subprocess.Popen(
                [
                    *("mariadbd", "--no-defaults", *root, f"--datadir={short}/db", socket, "--bind-address=127.0.0.1"),
                    *(f"--port={self.place.database}", f"--pid-file={short}/run/mariadb.pid", "--skip-name-resolve"),
                    *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--performance-schema=OFF"),
                    *("--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        until("MariaDB does not answer", "mariadb-admin", "--no-defaults", socket, "-u", "root", "ping")
        password = secrets.token_hex(16)
        grants = short / "run" / "grants.sql"
        grants.touch(mode=0o600)
        grants.write_text(
            f"create user slurm@'127.0.0.1' identified by '{password}'; grant all on slurm_acct.* to slurm@'127.0.0.1';"
        )
        do("mariadb", "--no-defaults", socket, "-u", "root", "-e", f"source {grants}")
        grants.unlink()
        secret = short / "etc" / "slurmdbd.conf"
        secret.touch(mode=0o600)
        secret.write_text(conf.slurmdbd_conf(self.layout, self.place, password))
        do("slurmdbd")
        until("slurmdbd does not answer", "sacctmgr", "-n", "list", "cluster")
        do("sacctmgr", "-i", "add", "cluster", "devcluster")
