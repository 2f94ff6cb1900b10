"""A server in a process group of its own, beside the job's process, which hands it the signals that it gets.

What is sent to the group reaches the server alone, which drains, and not its engine, which would end at once. Slurm may
still signal every process of a step by itself; a job that was told to end has ended well all the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from octupus.errors import Lost, OctupusError
from slurm.beside import die_with_parent

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def run_apart(work: Callable[..., int], *words: Any) -> int:
    """``work(*words)`` in such a process; what it returns.

    Raises:
        OctupusError: what it raised. Lost: it was killed, or ended without a word.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, work, words))
    process.start()
    sender.close()
    assert process.pid is not None
    with _passing_on(process.pid) as received:
        try:
            said = receiver.recv()
        except EOFError:
            said = None
        process.join()
    if received and not isinstance(said, int):
        return received[0]  # told to end, and it has: Slurm may have told its engine too, which ends first
    if isinstance(said, OctupusError):
        raise said
    if said is None:
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}, without a word"
        raise Lost(f"the server {how}; its log says more")
    return int(said)


def _work(sender: Connection, work: Callable[..., int], words: tuple[Any, ...]) -> None:
    os.setsid()
    die_with_parent()
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    try:
        sender.send(work(*words))
    except OctupusError as error:
        print(f"serve: {error}", flush=True)
        sender.send(error)


@contextmanager
def _passing_on(pid: int) -> Iterator[list[int]]:
    """Signals go to that process while this lasts; one that has ended needs none."""

    received = list[int]()

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
