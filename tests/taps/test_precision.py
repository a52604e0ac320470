"""Steps made again in 32 bits: they tell the truth, and leave no trace."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_debug import DebugSuite
from lightning_debug.taps.twins import NoTwinError, decay_of, stepped
from tests.healthy.test_optimizers_and_precision import Dithered, Lion
from tests.runs import Program, digits, quiet_trainer

BOTH = (torch.optim.Adam, torch.optim.SGD)


def parameters():
    return [nn.Parameter(torch.ones(4, 3))]


@pytest.mark.parametrize(
    ("rule", "settings", "kind"),
    [
        (torch.optim.AdamW, {}, "decoupled"),
        (torch.optim.Adam, {"decoupled_weight_decay": True}, "decoupled"),
        (torch.optim.Adafactor, {}, "decoupled"),
        (Lion, {}, "decoupled"),
        (torch.optim.Adam, {}, "adaptive"),
        (torch.optim.Adam, {"foreach": True}, "adaptive"),
        (torch.optim.NAdam, {}, "adaptive"),
        (torch.optim.RAdam, {}, "adaptive"),
        (torch.optim.RMSprop, {}, "adaptive"),
        (torch.optim.Adagrad, {}, "adaptive"),
        (torch.optim.SGD, {}, "gradient"),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, "gradient"),
    ],
)
def test_where_decay_goes(rule, settings, kind):
    optimizer = rule(parameters(), lr=1e-2, weight_decay=0.05, **settings)
    assert decay_of(optimizer, optimizer.param_groups[0]) == kind


@pytest.mark.parametrize("rule", BOTH)
def test_a_step_of_a_twin_is_the_step(rule):
    (parameter,) = held = parameters()
    optimizer = rule(held, lr=0.1, weight_decay=0.01)
    gradient = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(3):
        state = {
            k: v.clone() if isinstance(v, torch.Tensor) else v
            for k, v in optimizer.state[parameter].items()
        }
        start = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        group = optimizer.param_groups[0]
        (end,) = stepped(optimizer, group, [start], [gradient], [state])
        assert torch.equal(end, parameter.detach())


def test_no_twin_of_what_needs_a_closure():
    optimizer = torch.optim.LBFGS(parameters())
    with pytest.raises(NoTwinError):
        stepped(optimizer, optimizer.param_groups[0], [torch.ones(2)], [torch.ones(2)])


@pytest.mark.parametrize("rule", [*BOTH, Dithered])
@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_no_trace(rule, precision):
    if (rule, precision) == (Dithered, "16-true"):
        pytest.skip("it rounds to bfloat16")

    def weights(callbacks):
        pl.seed_everything(0, verbose=False)
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
        settings = {"eps": 1e-3} if rule is torch.optim.Adam else {}
        model = Program(net, optimizer=lambda held: rule(held, lr=1e-3, **settings))
        trainer = quiet_trainer(max_epochs=1, precision=precision, callbacks=callbacks)
        trainer.fit(model, digits(n=256))
        state = [
            value
            for held in trainer.optimizers[0].state.values()
            for value in held.values()
            if isinstance(value, torch.Tensor)
        ]
        return [*(p.detach() for p in model.parameters()), *state, torch.get_rng_state()]

    suite = DebugSuite(debug=True, sinks=[])
    watched, bare = weights([suite]), weights([])
    assert not suite.failures
    assert all(torch.equal(a, b) for a, b in zip(watched, bare, strict=True))
