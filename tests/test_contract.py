"""What holds for every check, asked once for all of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from lightning_debug import checks, registry
from lightning_debug.check import Check
from lightning_debug.observation import KINDS, hook
from lightning_debug.section import Section
from lightning_debug.suite import DebugSuite

TESTS = Path(__file__).parent
CHECKS = list(registry.all_checks().values())


def test_there_are_checks() -> None:
    assert len(CHECKS) >= 19


def test_kinds_of_observation_and_methods_are_one_to_one() -> None:
    methods = {name for name in vars(Check) if name.startswith("on_")}
    assert methods == {hook(kind) for kind in KINDS}


def test_every_section_callback_names_checks_that_exist() -> None:
    named = [name for section in Section.__subclasses__() for name in section.names or ()]
    assert set(named) == set(registry.all_checks())
    assert len(named) == len(set(named))
    assert DebugSuite.names is None


@pytest.mark.parametrize("cls", CHECKS, ids=lambda cls: cls.name())
class TestEveryCheck:
    def test_one_name_everywhere(self, cls: type[Check]) -> None:
        snake = cls.name().replace("-", "_")
        assert cls.__module__.rsplit(".", 1)[1] == snake
        assert (TESTS / "checks" / cls.section() / f"test_{snake}.py").exists()
        assert (TESTS / "faults" / f"test_{snake}.py").exists()
        assert getattr(checks, cls.__name__) is cls

    def test_explains_itself(self, cls: type[Check]) -> None:
        doc = inspect.getdoc(cls) or ""
        assert doc.splitlines()[0].endswith(".")
        assert cls.why()
        assert "\nSilent when: " in doc
        assert cls.fix.endswith(".")

    def test_documents_its_own_thresholds(self, cls: type[Check]) -> None:
        doc = inspect.getdoc(cls) or ""
        for field in dataclasses.fields(cls):
            own = field.name in cls.__annotations__ and field.init
            if own:
                assert re.search(rf"^    {field.name}\b.*:", doc, re.M), field.name

    def test_answers_at_least_one_kind(self, cls: type[Check]) -> None:
        assert any(getattr(cls, hook(kind)) is not getattr(Check, hook(kind)) for kind in KINDS)

    def test_is_final(self, cls: type[Check]) -> None:
        assert cls.__bases__ == (Check,)
        assert not cls.__subclasses__()

    def test_its_causes_are_findings(self, cls: type[Check]) -> None:
        assert set(cls.symptom_of) <= set(registry.all_checks()) - {cls.name()}

    def test_refuses_patience_that_cannot_be_meant(self, cls: type[Check]) -> None:
        with pytest.raises(ValueError, match="patience=0"):
            cls(patience=0)
