"""The summands of a loss, where each comes from, and the gradient that each sends."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.terms import TermTap
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Ledger

X = torch.linspace(-1.0, 1.0, 12).view(4, 3)
Y = torch.tensor([0, 1, 0, 1])


def take_apart(compute):
    """Return the summands of a loss of two layers, backward and all; and the layers."""

    def fail(error):
        raise error

    torch.manual_seed(0)
    trace, ledger = Trace({}), Ledger()
    tap = TermTap(trace)
    functions = FunctionTap(trace, [tap], fail)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    tap.begin(ledger, wanted=True)
    with functions:
        functions.listening = True
        loss = compute(net)
        functions.listening = False
        tap.backward(loss, {})
    loss.backward()
    tap.end()
    ledger.send()
    ledger.settle()
    return tap.observations(), net


def two(net):
    hidden = net[0](X)
    return F.cross_entropy(net[1](hidden), Y), hidden.square().mean()


@pytest.mark.parametrize(
    ("combine", "weights"),
    [
        pytest.param(lambda a, b: a + b, (1.0, 1.0), id="sum"),
        pytest.param(lambda a, b: a + 0.1 * b, (1.0, 0.1), id="weighted"),
        pytest.param(lambda a, b: (a - b / 4) / 2, (0.5, -0.125), id="difference, divided"),
        pytest.param(lambda a, b: 1.0 - (-a) - (1 - b), (1.0, 1.0), id="signs"),
        pytest.param(lambda a, b: sum([a, b]), (1.0, 1.0), id="python's sum"),
        pytest.param(lambda a, b: torch.stack([a, 3 * b]).sum(), (1.0, 3.0), id="stack"),
        pytest.param(lambda a, b: torch.stack([a, b]).mean(), (0.5, 0.5), id="mean of a stack"),
        pytest.param(lambda a, b: torch.zeros(()) + a + b, (1.0, 1.0), id="from a zero"),
        pytest.param(lambda a, b: a.clone().add_(b), (1.0, 1.0), id="in place"),
        pytest.param(lambda a, b: a + torch.tensor(2.0) * b, (1.0, 1.0), id="weight as a tensor"),
    ],
)
def test_summands_and_weights(combine, weights):
    terms, _ = take_apart(lambda net: combine(*two(net)))
    trained = [term for term in terms if term.trained]
    assert [term.name for term in trained] == ["cross_entropy", "mean"]
    assert [term.weight for term in trained] == pytest.approx(list(weights))
    assert terms == tuple(trained)


def test_values_are_those_in_the_sum():
    terms, net = take_apart(lambda net: two(net)[0] + torch.tensor(2.0) * 3.0 * two(net)[1])
    ce, penalty = two(net)
    assert terms[0].value == pytest.approx(ce.item())
    assert terms[1].value == pytest.approx(6.0 * penalty.item())


def test_an_in_place_sum_does_not_change_its_first_summand():
    def total(net):
        loss, penalty = two(net)
        loss += penalty
        return loss

    terms, net = take_apart(total)
    assert terms[0].value == pytest.approx(two(net)[0].item())


def test_gradient_where_the_ways_meet():
    terms, net = take_apart(lambda net: two(net)[0] + 0.1 * two(net)[1])
    # Each summand ran the first layer itself, so the ways meet in its weights.
    for term, loss in zip(terms, (two(net)[0], 0.1 * two(net)[1]), strict=True):
        gradients = torch.autograd.grad(loss, list(net[0].parameters()))
        expected = math.sqrt(sum(g.square().sum().item() for g in gradients))
        assert term.gradient == pytest.approx(expected, rel=1e-4)


def test_gradient_into_a_shared_activation():
    def total(net):
        ce, penalty = two(net)
        return ce + penalty

    terms, net = take_apart(total)
    hidden = net[0](X).detach().requires_grad_()
    (expected,) = torch.autograd.grad(hidden.square().mean(), hidden)
    assert terms[1].gradient == pytest.approx(expected.norm().item(), rel=1e-4)


def test_one_summand_shares_with_none():
    (term,), _ = take_apart(lambda net: two(net)[0])
    assert math.isnan(term.gradient)


def test_penalties_on_weights_are_one():
    def total(net):
        return two(net)[0] + 0.01 * sum(p.pow(2).sum() for p in net.parameters())

    terms, net = take_apart(total)
    assert [(term.name, term.penalty) for term in terms] == [
        ("cross_entropy", False),
        ("penalty on weights", True),
    ]
    squares = sum(p.pow(2).sum().item() for p in net.parameters())
    assert terms[1].value == pytest.approx(0.01 * squares)
    assert terms[1].gradient == pytest.approx(0.02 * math.sqrt(squares), rel=1e-4)


@pytest.mark.parametrize("points", [lambda: torch.rand(5, 3), lambda: torch.eye(3) * X.mean()])
def test_what_a_net_makes_of_points_is_no_penalty(points):
    terms, _ = take_apart(lambda net: two(net)[0] + net(points()).square().mean())
    assert not any(term.penalty for term in terms)


def test_a_gram_matrix_against_the_unit_matrix_is_a_penalty():
    def total(net):
        gram = net[0].weight.T @ net[0].weight - torch.eye(3)
        return two(net)[0] + gram.square().sum()

    terms, _ = take_apart(total)
    assert [term.penalty for term in terms] == [False, True]


@pytest.mark.parametrize(
    ("term", "cut"),
    [
        pytest.param(lambda z: z.detach().abs().mean(), "detach", id="detach"),
        pytest.param(lambda z: z.data.abs().mean(), "__get__", id="data"),
        pytest.param(lambda z: (z.argmax(1) == Y).float().mean(), "argmax", id="argmax"),
        pytest.param(lambda z: 0.5 * z.sum().item(), "item", id="item"),
    ],
)
def test_cut(term, cut):
    def total(net):
        logits = net(X)
        return F.cross_entropy(logits, Y) + term(logits)

    terms, _ = take_apart(total)
    assert [t.cut for t in terms] == ["", cut]
    assert terms[1].line.startswith("test_terms.py:") or cut == "item"


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(lambda z: 2.0, id="a number"),
        pytest.param(lambda z: X.mean(), id="data"),
        pytest.param(lambda z: torch.zeros(()), id="a zero"),
        pytest.param(
            lambda z: (lambda a: a + (z.std() - a).detach())(z.abs().mean()),
            id="the value of one, the gradient of another",
        ),
    ],
)
def test_not_cut(term):
    def total(net):
        logits = net(X)
        return F.cross_entropy(logits, Y) + logits.mean() + term(logits)

    terms, _ = take_apart(total)
    assert all(t.trained for t in terms)
