import pytest

from lightning_debug.checks.loss.constant_loss_terms import ConstantLossTerms
from lightning_debug.observation import LossTerm, LossTerms

MAIN = LossTerm(name="cross_entropy", value=2.0)


def look(*terms):
    return LossTerms(terms=(MAIN, *terms))


def cut(how="argmax", **changes):
    fields = {"name": "mean", "value": 0.5, "trained": False, "cut": how, "line": "train.py:7"}
    return LossTerm(**fields | changes)


def test_fires():
    (finding,) = ConstantLossTerms().on_loss_terms(look(cut()))
    assert finding.message == (
        "mean (train.py:7) adds 0.5 to the loss (20% of it) and trains nothing: argmax has no"
        " gradient."
    )
    assert finding.where == "loss term mean"
    assert finding.severity == "error"
    assert "differentiable" in finding.fix


@pytest.mark.parametrize(
    ("how", "cause", "fix"),
    [
        ("detach", "cut by .detach() or .data", "Leave out .detach()"),
        ("__get__", "cut by .detach() or .data", "Leave out .detach()"),
        ("no_grad", "under torch.no_grad()", "outside of torch.no_grad()"),
        ("frozen", "layers that are not trained", "(the student, not the teacher)"),
        ("input", "goes to an input of the model only", "create_graph=True"),
        ("round", "round has no gradient", "in place of round"),
    ],
)
def test_says_what_cut_it(how, cause, fix):
    (finding,) = ConstantLossTerms().on_loss_terms(look(cut(how)))
    assert cause in finding.message
    assert fix in finding.fix


def show(check, *values):
    """Show a number that is added, look by look; return the findings of the last."""
    found = []
    for value in values:
        found = list(check.on_loss_terms(look(cut("item", name="a number", value=value))))
    return found


def test_a_number_counts_once_it_has_risen_and_fallen():
    (finding,) = show(ConstantLossTerms(), 0.5, 0.6, 0.55)
    assert "it was read out of its tensor" in finding.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(look(LossTerm(name="mean", value=0.5)), id="trained"),
        pytest.param(look(cut(value=0.0)), id="zero"),
        pytest.param(look(), id="one term"),
    ],
)
def test_silent(obs):
    assert not list(ConstantLossTerms().on_loss_terms(obs))


def test_silent_where_the_term_has_a_gradient_at_times():
    check = ConstantLossTerms()
    list(check.on_loss_terms(look(LossTerm(name="mean", value=0.5))))
    assert not list(check.on_loss_terms(look(cut("frozen"))))


@pytest.mark.parametrize("values", [(0.5,) * 5, (0.5, 0.4, 0.3, 0.3)], ids=["fixed", "scheduled"])
def test_a_number_that_is_meant(values):
    assert not show(ConstantLossTerms(), *values)


def test_names_the_line_of_the_cut():
    (finding,) = ConstantLossTerms().on_loss_terms(look(cut("detach", cut_line="net.py:3")))
    assert finding.message.endswith("its gradient was cut by .detach() or .data at net.py:3.")


def test_two_fixed_numbers_do_not_waver():
    check = ConstantLossTerms()
    for _ in range(4):
        found = list(check.on_loss_terms(look(cut("item", value=0.5), cut("item", value=1.0))))
    assert found == []
