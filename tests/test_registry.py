import pickle
from dataclasses import dataclass

import pytest

from lightning_debug import registry
from lightning_debug.check import Check
from lightning_debug.checks.connections.dead_relu import DeadRelu
from tests.build import finding


@dataclass(kw_only=True)
class HomeMade(Check):
    """Is it home-made?"""

    fix = "Buy one."


def test_every_check_is_found_by_its_name():
    found = registry.all_checks()
    assert found["dead-relu"] is DeadRelu
    for name, check in found.items():
        assert name == check.name()
        module = check.__module__.split(".")
        assert module[-1] == name.replace("-", "_")
        assert check.section() == module[-2]


def test_sections():
    assert {"connections", "loss", "parameters"} <= set(registry.sections())


def test_checks_can_be_pickled():
    for check in registry.choose(None, (), (), ()):
        copy = pickle.loads(pickle.dumps(check))
        assert (type(copy), repr(copy)) == (type(check), repr(check))  # the thresholds


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["dead-rellu"], "ignore: 'dead-rellu' matches no finding.*Did you mean 'dead-relu'"),
        (["dead_relu"], "Did you mean 'dead-relu'"),
        (["Dead-ReLU:encoder.*"], "'Dead-ReLU' matches no.*'dead-relu'"),
        (["zero-gradients"], "'zero-gradient'"),
        (["connection"], "'connections'"),
        (["xyzzy"], "Sections are .*connections.*lightning-debug list"),
    ],
)
def test_an_unknown_name_names_the_nearest(patterns, message):
    with pytest.raises(ValueError, match=message):
        registry.validate(patterns, "ignore")


@pytest.mark.parametrize("patterns", ["dead-relu", [1], [None]])
def test_patterns_are_a_list_of_strings(patterns):
    with pytest.raises(TypeError, match=r"select=.*list of strings"):
        registry.validate(patterns, "select")


def test_known_names_pass():
    patterns = ["dead-relu", "connections", "no-gradient:head.*"]
    assert registry.validate(patterns, "select") == tuple(patterns)


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("dead-relu", True),
        ("connections", True),
        ("dead-relu:encoder.*", True),
        ("connections:encoder.0", True),
        ("dead-relu:decoder.*", False),
        ("zero-gradient", False),
        ("loss", False),
    ],
)
def test_matches(pattern, covered):
    assert registry.matches(pattern, finding(), "connections") is covered


def chosen(names=None, instances=(), select=(), ignore=()):
    return {check.name() for check in registry.choose(names, instances, select, ignore)}


def test_choose():
    every = set(registry.all_checks())
    connections = {n for n, c in registry.all_checks().items() if c.section() == "connections"}
    assert chosen() == every
    assert chosen(["dead-relu", "no-gradient"]) == {"dead-relu", "no-gradient"}
    assert chosen(select=["connections"]) == connections
    assert chosen(select=["connections", "initial-loss"]) == {*connections, "initial-loss"}
    assert chosen(select=["dead-relu:encoder.*"]) == {"dead-relu"}
    assert chosen(ignore=["connections"]) == every - connections
    assert chosen(ignore=["dead-relu"]) == every - {"dead-relu"}
    assert chosen(ignore=["dead-relu:encoder.*"]) == every, "only some places are ignored"
    assert chosen(select=["connections"], ignore=["dead-relu"]) == connections - {"dead-relu"}


def test_own_instances_replace_and_join():
    own = DeadRelu(share=0.5)
    [check] = [c for c in registry.choose(None, [own], (), ()) if c.name() == "dead-relu"]
    assert check == own
    assert check is not own
    assert "home-made" in chosen(instances=[HomeMade()])
    assert chosen(["no-gradient"], [HomeMade()]) == {"no-gradient", "home-made"}
    assert chosen(instances=[HomeMade()], select=["dead-relu"]) == {"dead-relu", "home-made"}


def test_a_check_from_a_script_has_a_section_too():
    script = type("Scripted", (HomeMade,), {"__module__": "__main__"})
    assert script.section() == "own"


def test_classes_are_no_instances():
    with pytest.raises(TypeError, match=r"not a Check instance, such as DeadRelu\(share=0.5\)"):
        registry.choose(None, [DeadRelu], (), ())
