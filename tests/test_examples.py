"""The examples do what they say."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_walk_from_simple_to_convolutional(capsys: Any) -> None:
    first, mistake, second, last = example("from_simple_to_conv").walk(epochs=6)
    assert mistake.alarms == ("probabilities-as-logits",)
    assert math.isnan(mistake.accuracy)
    for station in (first, second, last):
        assert station.alarms == ()
    assert 0.9 < first.accuracy < last.accuracy
    assert "one or two samples by heart: 2 samples: accuracy 1.00" in capsys.readouterr().out


@pytest.mark.slow
def test_the_project_with_tests(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            EXAMPLES / "tested_project",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "3 passed" in done.stdout, done.stdout
