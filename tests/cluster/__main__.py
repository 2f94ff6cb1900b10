"""``python -m tests.cluster``: the tests on the development cluster, one configuration after the other.

In the default configuration all of them; with slurmdbd, and with a production cluster's settings, those marked
``short``. FULL=1: all of them in each. Words on the command line go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys

PYTEST = [sys.executable, "-m", "pytest", "-q"]
ITSELF = "tests/cluster/test_devcluster.py"
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "no accounting, friendly settings": {},
    "accounting by slurmdbd": {"DB": "mariadb"},
    "no accounting, a production cluster's settings": {"SETTINGS": "unfriendly"},
}


def main(words: list[str]) -> int:
    """0 when all pass."""
    failed = []
    if subprocess.run([*PYTEST, "-m", "cluster", ITSELF, *words], check=False).returncode:
        failed.append("the cluster itself")
    for number, (name, settings) in enumerate(CONFIGURATIONS.items()):
        everything = number == 0 or os.environ.get("FULL") == "1"
        tests = ["-m", "cluster" if everything else "cluster and short", "tests/cluster", f"--ignore={ITSELF}", *words]
        environment = {**os.environ, **settings, "DEVCLUSTER": f"test-{os.getpid()}-{number}"}
        print(f"\n#### {name}", flush=True)
        command = [sys.executable, "-m", "slurm.devcluster", "with", "--", *PYTEST, *tests]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    print(f"\n{'failed: ' + '; '.join(failed) if failed else 'every configuration passes'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
