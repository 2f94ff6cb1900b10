"""A server beside the job's process, which alone hears that it is to end, and tells the server, which drains.

Slurm signals every process of a step by itself, whatever its group, and an engine that hears SIGTERM ends in the middle
of its requests. So a server is told to end by a file that its job looks for; a signal that processes ignore unless they
ask for it has the job look at once. The signal that announces a time limit or a preemption is ignored by the server and
by what it starts.
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

WIND_DOWN = signal.SIGURG
"""Has a server's job end it now: ``scancel --signal=URG``."""
LOOK_S = 1.0
PASSED_ON = (WIND_DOWN, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


def run_apart(asked_to_end: Callable[[], bool], work: Callable[..., int], *words: Any) -> int:
    """``work(*words)`` in a process of its own; the first signal that this one got meanwhile, or else what it returns.

    Args:
        asked_to_end: looked at once a second; what it says counts as ``WIND_DOWN``.

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
        while not (received or receiver.poll(LOOK_S)):
            if asked_to_end():
                signal.raise_signal(WIND_DOWN)
        try:
            said = receiver.recv()
        except EOFError:
            said = None
        process.join()
    if received:
        return received[0]  # told to end, and it has; with SIGTERM Slurm has told its engine too, which ends first
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
        signal.signal(number, signal.SIG_IGN if number in (WIND_DOWN, signal.SIGUSR2) else signal.SIG_DFL)
    try:
        sender.send(work(*words))
    except OctupusError as error:
        print(f"serve: {error}", flush=True)
        sender.send(error)


@contextmanager
def _passing_on(pid: int) -> Iterator[list[int]]:
    """While this lasts a signal has that process told to end, and is noted; one that has ended needs none."""

    received = list[int]()

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
