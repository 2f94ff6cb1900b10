"""``python -m octupus.serve`` as a process of its own: how it starts, what it says, how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Launched:
    """A server process; ``lines`` is what it has said so far, both streams. Killed, if it still lives, on leaving."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        command = [sys.executable, "-m", "octupus.serve", "--host", "127.0.0.1", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            found = re.match(r"(loading; |ready: )(http://\S+)/(ready|v1)", line)
            if found:
                self.url = found[2]
                if found[1] == "ready: ":
                    self._ready.set()
        self._ready.set()

    def ready(self, timeout_s: float = 240) -> str:
        """The url, once requests are taken."""
        assert self._ready.wait(timeout_s) and self.process.poll() is None, "\n".join(self.lines[-40:])
        return self.url

    def ended(self, timeout_s: float = 60) -> int:
        """The exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)


def marked(variable: str, value: str) -> list[int]:
    """Living processes with this in their environment: children of children, orphans included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if alive and f"{variable}={value}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
