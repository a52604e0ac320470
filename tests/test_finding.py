import copy
import json
import pickle

import pytest

from lightning_debug.finding import Finding, Severity, worst_first
from tests.build import finding


def test_severities_are_ordered_and_equal_to_their_words():
    assert Severity.INFO < Severity.WARNING < Severity.ERROR
    assert Severity.ERROR >= Severity.ERROR > Severity.WARNING >= Severity.INFO
    assert Severity.INFO <= Severity.INFO
    assert Severity.WARNING == "warning"
    assert Severity.ERROR > "info"
    assert max(Severity) is Severity.ERROR
    assert str(Severity.ERROR) == f"{Severity.ERROR}" == "error"


def test_places_are_named_without_wrappers():
    compiled = finding(
        message="net._orig_mod.0 and _orig_mod.head of net._orig_mod.",
        where="net._orig_mod.0",
        places=("net._orig_mod.0._checkpoint_wrapped_module.weight", "my_orig_mod.0"),
    )
    assert compiled.message == "net.0 and head of net."
    assert compiled.where == "net.0"
    assert compiled.places == ("net.0.weight", "my_orig_mod.0")


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda f: pickle.loads(pickle.dumps(f)), id="pickle"),
        pytest.param(copy.deepcopy, id="deep copy"),
        pytest.param(copy.copy, id="copy"),
        pytest.param(lambda f: Finding.from_dict(f.as_dict()), id="dict"),
        pytest.param(lambda f: Finding.from_dict(json.loads(json.dumps(f.as_dict()))), id="json"),
    ],
)
def test_comes_back_the_same(again):
    one = finding(
        severity=Severity.ERROR,
        places=("encoder.0", "encoder.1"),
        evidence={"share": 0.91, "kind": "relu"},
        caused_by="update-too-large",
        count=3,
        patience=2,
    )
    two = again(one)
    assert two == one
    assert type(two.severity) is Severity
    assert two.places == ("encoder.0", "encoder.1")
    assert dict(two.evidence) == {"share": 0.91, "kind": "relu"}


def test_drops_what_a_later_version_may_add():
    assert Finding.from_dict(finding().as_dict() | {"colour": "red"}) == finding()


def test_nothing_in_it_can_be_changed():
    one, evidence = finding(), {"share": 0.9}
    with pytest.raises(AttributeError):
        one.message = "fine"
    two = finding(evidence=evidence)
    with pytest.raises(TypeError):
        two.evidence["share"] = 0.0
    evidence["share"] = 0.0
    assert two.evidence["share"] == 0.9


def test_worst_first_then_oldest():
    late = finding(name="late", severity=Severity.ERROR, step=9)
    early = finding(name="early", severity=Severity.ERROR, step=1)
    info = finding(name="info", severity=Severity.INFO, step=0)
    warning = finding(name="warning", step=0)
    ordered = worst_first([info, late, warning, early])
    assert [f.name for f in ordered] == ["early", "late", "warning", "info"]


def test_symptoms_follow_their_cause_even_where_they_are_worse():
    cause = finding(name="cause", step=5)
    symptom = finding(name="symptom", severity=Severity.ERROR, step=7, caused_by="cause")
    deeper = finding(name="deeper", step=8, caused_by="symptom")
    other = finding(name="other", step=6)
    ordered = worst_first([other, symptom, deeper, cause])
    assert [f.name for f in ordered] == ["cause", "symptom", "deeper", "other"]


def test_a_symptom_whose_cause_is_not_there_stands_alone():
    lost = finding(name="lost", caused_by="filtered-out")
    assert worst_first([lost]) == [lost]


def test_findings_that_explain_each_other_are_not_lost():
    circle = [finding(name="a", caused_by="b"), finding(name="b", caused_by="a")]
    assert {f.name for f in worst_first([*circle, finding(name="c")])} == {"a", "b", "c"}


def test_a_long_chain_of_causes():
    chain = [finding(name=str(i), caused_by=str(i - 1)) for i in range(5000)]
    assert worst_first(reversed(chain)) == chain
