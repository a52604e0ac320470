"""Several trainings in one process, a thread for each.

Experiments put the random numbers of the process back to what they were. Whoever draws meanwhile
in another thread would draw the same numbers twice, so experiments are made only while no other
training is watched, and none starts before they are over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

_lock = threading.RLock()
_threads: WeakKeyDictionary[object, int] = WeakKeyDictionary()


def join(training: object) -> None:
    """Start to watch a training in this thread; waits for the experiments of others."""
    with _lock:
        _threads[training] = threading.get_ident()


def leave(training: object) -> None:
    """It is over."""
    with _lock:
        _threads.pop(training, None)


def alone() -> bool:
    """Tell whether no training is watched in another thread."""
    with _lock:
        return all(thread == threading.get_ident() for thread in _threads.values())


@contextmanager
def while_alone() -> Iterator[bool]:
    """Keep others from starting for as long as this takes; gives whether there are none now."""
    with _lock:
        yield alone()
