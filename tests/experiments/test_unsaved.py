"""Forward passes that keep nothing, and experiments that take less of large models."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.experiments import memory
from lightning_debug.experiments import repeat as repeats
from lightning_debug.experiments.gradients import check
from lightning_debug.experiments.inputs import inputs
from lightning_debug.experiments.mixing import mixing
from lightning_debug.experiments.rates import RateTrials
from lightning_debug.experiments.replica import NotApplicableError, single, working_copy
from lightning_debug.experiments.trial import heard
from lightning_debug.experiments.unsaved import MOST_ELEMENTS, Load, Unsaved


class Regression(nn.Module):
    """Two layers and a squared error."""

    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x), y)


class Penalised(Regression):
    """Adds a penalty on the slope at its inputs, which takes a backward pass in the step."""

    def training_step(self, batch, batch_idx):
        x = batch[0].requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), [x], create_graph=True)
        return super().training_step(batch, batch_idx) + slope.square().mean()


class Forgiving(Penalised):
    """Does without the penalty where there is no gradient."""

    def training_step(self, batch, batch_idx):
        try:
            return super().training_step(batch, batch_idx)
        except RuntimeError:
            return Regression.training_step(self, batch, batch_idx)


def sizes(replica):
    """Return a list that will hold how many samples each run of the step gets."""
    found, advance = [], replica.advance

    def noted(batch, **where):
        found.append(len(batch[0]))
        return advance(batch, **where)

    replica.advance = noted
    return found


def data(count=16):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=draw)
    return x, x[:, :1].sin()


def heavy(share=1e6):
    """Return what says that each sample is much."""
    load = Load()
    load.note(int(share), 1)
    return load


def test_nothing_is_kept_and_results_ask_for_gradients_as_ever():
    x = torch.randn(3, 4, requires_grad=True)
    with Unsaved() as unsaved:
        out = (x * 2.0).exp().sum()
    assert out.requires_grad
    assert unsaved.elements == 12
    assert not unsaved.missed
    with pytest.raises(RuntimeError, match="nothing was kept"):
        out.backward()
    assert unsaved.missed


def test_weights_are_not_counted():
    layer = nn.Linear(100, 50)
    with Unsaved() as unsaved:
        layer(torch.randn(2, 100))
    assert unsaved.elements == 200


@pytest.mark.parametrize("kind", [Regression, Penalised, Forgiving])
def test_a_forward_pass_gives_what_a_whole_one_gives(kind):
    torch.manual_seed(0)
    with working_copy(kind(), dtype=torch.float64) as replica:
        whole = single(replica.losses(data())).detach()
        assert torch.equal(heard(replica, data()).losses[0], whole)
        assert torch.equal(heard(replica, data()).losses[0], whole)


def test_a_step_that_goes_backward_is_tried_without_a_graph_once():
    with working_copy(Penalised(), dtype=torch.float64) as replica:
        made = sizes(replica)
        heard(replica, data())
        assert len(made) == 2
        heard(replica, data())
        assert len(made) == 3


def test_a_step_that_fails_says_why():
    with (
        working_copy(Regression(), dtype=torch.float64) as replica,
        pytest.raises(NotApplicableError, match="the training step fails on a copy: mat1"),
    ):
        heard(replica, (torch.randn(4, 3), torch.randn(4, 1)))


def test_small_models_are_given_all_samples():
    assert Load().samples(data(), 16, 8, 3) == 8
    with working_copy(Regression(), dtype=torch.float64) as replica:
        heard(replica, data())
        assert replica.load.samples(data(), 16, 8, 3) == 8


@pytest.mark.parametrize(
    ("kept", "count"),
    [
        pytest.param(MOST_ELEMENTS // 6, 6, id="what fits"),
        pytest.param(MOST_ELEMENTS, 3, id="the fewest"),
        pytest.param(1000, 8, id="the most"),
    ],
)
def test_fewer_samples_are_taken_of_what_is_much(kept, count):
    load = Load()
    load.note(kept, 5)  # elements of a sample and its target
    assert load.samples(data(), 16, 8, 3) == count


@pytest.mark.parametrize(
    ("experiment", "most"),
    [(check, 2), (mixing, 4), (inputs, 5)],
)
def test_an_experiment_takes_less_of_a_large_model(experiment, most):
    with working_copy(Regression(), dtype=torch.float64, load=heavy()) as replica:
        replica.forward = lambda run: run()  # what is learned of it would say that it is small
        made = sizes(replica)
        experiment(replica, data(), step=0, epoch=0)
    assert max(made) == most


def test_a_step_is_made_twice_with_fewer_samples_of_a_large_model():
    with working_copy(Regression(), load=heavy()) as replica:
        made = sizes(replica)
        found = repeats.repeat(replica, data(), step=0, epoch=0)
    assert not found.source
    assert made == [repeats.FEWEST] * 2


def test_a_step_that_needs_its_whole_batch_is_made_twice_with_it():
    class Whole(Regression):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return super().training_step((x.view(16, 4), y), batch_idx)

    with working_copy(Whole(), load=heavy()) as replica:
        made = sizes(replica)
        repeats.repeat(replica, data(), step=0, epoch=0)
    assert made == [repeats.FEWEST, 16, 16]


def test_a_copy_shares_the_values_that_it_starts_from_and_changes_none():
    model = Regression()
    before = [p.detach().clone() for p in model.parameters()]
    with working_copy(model) as replica:
        starts = [values for _, values in replica.started()]
        for parameter in replica.module.parameters():
            parameter.data.add_(1.0)
        replica.restore()
        back = [torch.equal(p, values) for p, values in replica.started()]
    assert [v.data_ptr() for v in starts] == [p.data_ptr() for p in model.parameters()]
    assert all(back)
    assert all(map(torch.equal, model.parameters(), before))


def test_a_copy_that_is_let_go_of_holds_no_values_even_in_a_cycle():
    gc.disable()
    try:
        with working_copy(Regression()) as replica:
            held = list(replica.module.parameters())
            single(replica.losses(data())).backward()
            inside = weakref.ref(replica.module)
            held[0].cycle = replica.module
        assert [(p.numel(), p.grad) for p in held] == [(0, None)] * 4
        del replica, held
        assert inside() is not None, "it is in a cycle"
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("width", "kept"), [(16, torch.float32), (300_000, torch.bfloat16)], ids=["few", "many"]
)
def test_many_initial_weights_are_kept_in_half_the_memory(width, kept):
    model = Regression(width)
    trials = RateTrials(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
    trials.start()
    assert {tensor.dtype for tensor in trials._initial} == {kept}


def test_memory_is_left_alone_where_another_library_manages_it(monkeypatch):
    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory._trim() is None
    memory.give_back()
    memory._trim.cache_clear()


def test_memory_is_given_back_where_it_can_be(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "_trim", lambda: asked.append)
    memory.give_back()
    assert asked == [0]
