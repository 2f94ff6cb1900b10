"""The garbage collector kept from what is kept anyway.

A full collection walks through every object that it knows, and all requests wait meanwhile: with the caches of some
thousand schemas a second. What the caches drop is free of circles and needs no collector (``Automaton.dismantle``), nor
does what a request leaves behind, here or in vLLM's scheduler. So all that lives is taken out of the collector's sight
whenever something was made, which takes no time. A circle that was alive just then and is let go later stays: so now
and then everything is looked through after all, which at full caches takes that second.
"""

from __future__ import annotations

import gc
import threading

LOOK_THROUGH = 20_000
"""Things made between two looks through everything: a plan and an automaton for each of 10,000 new schemas. That is
more than the caches hold; and compiling as many takes ten seconds or more, of which a look's one is a small part."""


class Heap:
    """For a process that does nothing else but generate: the collector is the whole process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = 0

    def settle(self) -> None:
        """Something was made that will be kept."""
        with self._lock:
            self._made += 1
            if self._made % LOOK_THROUGH == 0:
                gc.unfreeze()
            gc.collect()
            gc.freeze()
