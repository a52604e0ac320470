"""Sums and notes between real processes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch.distributed as dist

from lightning_debug.taps.processes import Processes
from tests.processes import in_processes


def joined() -> Processes:
    dist.init_process_group("gloo")
    processes = Processes.join()
    assert processes is not None
    return processes


def test_sums_and_notes() -> None:
    def program() -> Any:
        processes = joined()
        rank = processes.rank
        sums = [processes.sum([1.0, rank, 2.0**40 + 1]).take(10.0) for _ in range(2)]
        if rank:
            processes.leave(f"of {rank}, \u00e9")
            processes.finish()
        notes = processes.notes() if not rank and processes.await_others(10.0) else []
        return sums, sorted(notes), processes.notes() if not rank else []

    first, *others = in_processes(program, 3)
    sums = [[3.0, 3.0, 3.0 * (2.0**40 + 1)]] * 2  # exact: a fingerprint is a whole number
    assert first == (sums, ["of 1, \u00e9", "of 2, \u00e9"], [])
    assert [answer[0] for answer in others] == [sums] * 2


def test_who_does_not_answer_is_not_waited_for() -> None:
    def program() -> Any:
        processes = joined()
        if processes.rank:
            time.sleep(1.0)
            return None
        sum_ = processes.sum([1.0])
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="no answer"):
            sum_.take(0.2)
        patient = processes.await_others(0.2)
        return patient, time.monotonic() - started

    (patient, waited), _ = in_processes(program)
    assert patient is False
    assert waited < 1.0  # of 0.4; it does not wait for the other to wake up


def test_two_runs_of_the_same_processes_do_not_read_each_others_notes() -> None:
    def program() -> Any:
        first, second = joined(), Processes.join()
        assert second is not None
        if first.rank:
            first.leave("of the first run")
            first.finish()
            second.finish()
            return None
        assert first.await_others(10.0)
        assert second.await_others(10.0)
        return second.notes(), first.notes()

    assert in_processes(program)[0] == ([], ["of the first run"])


def test_one_process_has_nobody_to_talk_to() -> None:
    assert Processes.join() is None
