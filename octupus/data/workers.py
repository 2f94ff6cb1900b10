"""Work spread over processes: results in order, a bounded amount of work waiting, and no pool where there is little."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from types import TracebackType
from typing import TypeVar

from octupus.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Processes that start when there is enough to do, and that end with this object (or with this process)."""

    def __init__(self, count: int | None = None) -> None:
        self.count = len(os.sched_getaffinity(0)) if count is None else count
        self._pool: ProcessPoolExecutor | None = None

    def map(self, work: Callable[[int, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``work(number, item)`` of every item, in order; items are drawn as they are needed.

        Raises:
            DataError: a worker was killed.
        """
        numbered = enumerate(items)
        first = list(islice(numbered, 2 * self.count))
        if self.count < 2 or len(first) < 2 * self.count:
            yield from (work(number, item) for number, item in chain(first, numbered))
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_die_with, initargs=(os.getpid(),))
        waiting: deque[Future[Result]] = deque()
        try:
            for number, item in chain(first, numbered):
                waiting.append(self._pool.submit(work, number, item))
                if len(waiting) > 2 * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process of the build was killed, most likely for want of memory; run the same command again, what "
                "is finished is kept"
            ) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _die_with(parent: int) -> None:
    """A worker whose build was killed must not go on writing into the folders of the next one."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
