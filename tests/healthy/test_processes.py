"""Healthy programs in two processes that differ, or share something, for a reason."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import post_localSGD_hook as local_sgd
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from tests.processes import ddp, fit_in_two
from tests.runs import Program, alarms, digits

UNUSED = {"strategy": lambda: ddp(find_unused_parameters=True)}


def mlp(*norm):
    return nn.Sequential(nn.Linear(64, 32), *norm, nn.ReLU(), nn.Linear(32, 10))


def short():
    return digits(n=320, batch=16)


class Teacher(Program):
    """A frozen running mean of the weights, and a queue of what this process has seen."""

    def __init__(self):
        super().__init__(mlp())
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(64, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        with torch.no_grad():
            for ours, own in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                ours.lerp_(own, 0.1)
            target = self.teacher(x)
            self.queue = torch.cat([target, self.queue])[:64]
        return F.cross_entropy(logits, y) + 0.1 * F.mse_loss(logits, target)


class Routed(Program):
    """One of two branches at random, another one in each process."""

    def __init__(self):
        super().__init__(nn.Linear(64, 32))
        self.branches = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 10)])

    def forward(self, x):
        branch = (self.global_step + self.global_rank) % 2
        return self.branches[branch](F.relu(self.net(x)))


class Adversaries(Program):
    """Two optimizers that take turns."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 64)))
        self.judge = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        real = 2.0 * batch[0] - 1.0
        maker, judge = self.optimizers()
        fake = self.net(torch.randn(len(real), 8))
        self.toggle_optimizer(judge)
        loss = F.softplus(-self.judge(real)).mean() + F.softplus(self.judge(fake.detach())).mean()
        judge.zero_grad()
        self.manual_backward(loss)
        judge.step()
        self.untoggle_optimizer(judge)
        self.toggle_optimizer(maker)
        maker.zero_grad()
        self.manual_backward(F.softplus(-self.judge(fake)).mean())
        maker.step()
        self.untoggle_optimizer(maker)

    def configure_optimizers(self):
        settings = {"lr": 1e-4, "betas": (0.5, 0.999)}
        return [
            torch.optim.Adam(self.net.parameters(), **settings),
            torch.optim.Adam(self.judge.parameters(), **settings),
        ]


class Balanced(Sampler):
    """Batches with the same classes in the same order in all processes, of other samples."""

    def __init__(self, targets):
        self.targets, self.epoch = targets, 0

    def __len__(self):
        return 20

    def __iter__(self):
        self.epoch += 1
        rank = torch.distributed.get_rank()
        shared = torch.Generator().manual_seed(self.epoch)
        own = torch.Generator().manual_seed(1000 * self.epoch + rank)
        for _ in range(len(self)):
            classes = [*torch.randperm(10, generator=shared).tolist(), 0, 1, 2]
            rows = [(self.targets == c).nonzero().flatten()[rank::2] for c in classes]
            yield [int(r[torch.randint(len(r), (1,), generator=own)]) for r in rows]


def balanced():
    data = digits().dataset
    return DataLoader(data, batch_sampler=Balanced(data.tensors[1]))


def forecasts():
    """Series of their own at the same times in both processes."""
    times = torch.arange(40.0).repeat_interleave(2)[:, None] + torch.arange(16.0)
    series = torch.sin(times[..., None] / 5.0 + torch.randn(80, 16, 4))
    return DataLoader(TensorDataset(times, series), batch_size=2, shuffle=False)


class Forecaster(Program):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(60, 32), nn.Tanh(), nn.Linear(32, 4)))

    def training_step(self, batch, batch_idx):
        _, series = batch
        return F.mse_loss(self.net(series[:, :15].flatten(1)), series[:, 15])


@pytest.mark.parametrize(
    ("program", "data", "settings"),
    [
        pytest.param(lambda: Program(mlp(nn.BatchNorm1d(32))), short, {}, id="batch norm"),
        pytest.param(Teacher, short, {}, id="a teacher and a queue"),
        pytest.param(Routed, short, UNUSED, id="branches"),
        pytest.param(Adversaries, short, UNUSED, id="adversaries"),
        pytest.param(
            lambda: Program(mlp()), balanced, {"use_distributed_sampler": False}, id="balanced"
        ),
        pytest.param(Forecaster, forecasts, {}, id="the same times"),
        pytest.param(
            lambda: Program(mlp()), lambda: digits(n=330, batch=16), {}, id="a smaller last batch"
        ),
        pytest.param(lambda: Program(mlp()), short, {"overfit_batches": 2}, id="a few batches"),
        pytest.param(
            lambda: Program(mlp()),
            short,
            {
                "strategy": lambda: ddp(
                    ddp_comm_state=local_sgd.PostLocalSGDState(None, None, 2),
                    ddp_comm_hook=local_sgd.post_localSGD_hook,
                    model_averaging_period=4,
                )
            },
            id="models averaged now and then",
        ),
    ],
)
def test_quiet(program, data, settings):
    settings = {"max_epochs": 3} | settings
    if "strategy" in settings:
        settings["strategy"] = settings["strategy"]()
    assert not alarms(fit_in_two(program, data(), **settings))
