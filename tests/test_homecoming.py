"""Findings come back from a process that was started for the run."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from pathlib import Path

from lightning_debug import Finding, Severity
from lightning_debug.experiment import Experiment
from lightning_debug.homecoming import Homecoming, Returned

WHOLE = Returned(
    findings=[Finding(name="dead-relu", severity=Severity.WARNING, message="Dead.", where="a")],
    experiments=[Experiment(name="one step made twice", outcome="passed", curve=(1.0, 0.5))],
    failures={"a part": "failed"},
    folder=Path("/runs/1"),
)


def leave(way: Homecoming) -> None:
    way.leave(WHOLE)


def test_what_a_child_leaves_is_taken_once() -> None:
    way = Homecoming()
    child = multiprocessing.get_context("fork").Process(target=leave, args=(way,))
    child.start()
    child.join()
    assert way.take() == WHOLE
    assert way.take() is None


def test_a_run_in_the_same_process_leaves_nothing() -> None:
    way = Homecoming()
    leave(way)
    assert way.take() is None


def test_what_nobody_takes_is_removed() -> None:
    way = Homecoming()
    child = multiprocessing.get_context("fork").Process(target=leave, args=(way,))
    child.start()
    child.join()
    path = way._path
    assert path.is_file()
    del way, child
    gc.collect()
    assert not path.exists()


def test_it_can_be_pickled() -> None:
    way = Homecoming()
    assert pickle.loads(pickle.dumps(way))._path == way._path
