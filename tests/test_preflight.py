"""``preflight``: all experiments and a few updates, on a copy."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning.pytorch as unified
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_debug import Preflight, preflight
from lightning_debug.experiments import replica
from tests.runs import Program, digits, regression, sequences


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Plain(Program):
    """A sound program with a learning rate that can be found, and that knows its own seed."""

    def __init__(self, net: nn.Module | None = None, **settings: Any) -> None:
        torch.manual_seed(0)
        super().__init__(net or network(), **settings)
        self.lr = 3e-3

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Probabilities(Plain):
    """Takes a softmax before a loss that applies its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0].mean(1))


class Dictionaries(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["pixels"], batch["digit"]), batch_idx)


class Pair(NamedTuple):
    pixels: Tensor
    digit: Tensor


class Several(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x, y), (other_x, other_y) = batch
        both = torch.cat([x, other_x]), torch.cat([y, other_y])
        return super().training_step(both, batch_idx)


class Unified(unified.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = network()
        self.save_hyperparameters({"learning_rate": 3e-3})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(digits().dataset)


class Empty(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class Digits(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def prepare_data(self) -> None:
        self.called.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.called.append(stage)
        self.data = digits(n=512).dataset

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=32, shuffle=True)


def batches(wrap: Callable[[Tensor, Tensor], Any] = lambda x, y: (x, y)) -> list[Any]:
    torch.manual_seed(0)
    return [wrap(x, y) for x, y in digits(n=640)]


def alarms(found: Preflight) -> list[str]:
    return [f"{f.name}: {f.message}" for f in found.findings if f.severity >= "warning"]


def outcomes(found: Preflight) -> dict[str, str]:
    return {e.name: e.outcome for e in found.experiments}


@pytest.mark.parametrize(
    ("model", "data"),
    [
        pytest.param(Plain, digits, id="a loader"),
        pytest.param(Manual, digits, id="manual optimization"),
        pytest.param(Unified, digits, id="the other namespace"),
        pytest.param(Plain, Digits, id="a data module"),
        pytest.param(Plain, batches, id="batches"),
        pytest.param(
            Dictionaries,
            lambda: batches(lambda x, y: {"pixels": x, "digit": y}),
            id="batches that are dictionaries",
        ),
        pytest.param(Plain, lambda: batches()[:1], id="a single batch"),
        pytest.param(Plain, lambda: digits(batch=1024), id="all data in one batch"),
        pytest.param(Plain, lambda: batches(Pair), id="batches of a class of their own"),
        pytest.param(Several, lambda: [digits(n=512), digits(n=256)], id="several loaders"),
        pytest.param(Plain, lambda: DataLoader(Stream(), batch_size=32), id="iterable data"),
        pytest.param(
            lambda: Plain(nn.Linear(8, 1), loss=F.mse_loss), regression, id="a regression"
        ),
        pytest.param(lambda: Plain(Recurrent()), sequences, id="a recurrent network"),
        pytest.param(
            lambda: Plain(
                nn.Sequential(
                    nn.Conv2d(1, 8, 3),
                    nn.BatchNorm2d(8),
                    nn.ReLU(),
                    nn.Flatten(),
                    nn.Dropout(0.2),
                    nn.Linear(288, 10),
                )
            ),
            lambda: digits(flat=False),
            id="a convolutional network",
        ),
    ],
)
def test_sound_programs_pass(model: Any, data: Any) -> None:
    found = preflight(model(), data(), seconds=5)
    assert found.failures == {}
    assert alarms(found) == []
    assert found.ok
    assert "found" not in outcomes(found).values()
    assert "passed" in outcomes(found).values()


def test_a_bug_is_found_and_told() -> None:
    found = preflight(Probabilities(), digits())
    assert not found.ok
    assert "probabilities-as-logits" in {f.name for f in found.findings}
    text = str(found)
    assert "fix: Give the loss the logits" in text
    assert "one or two samples by heart" in text
    assert "\x1b" not in text
    html = found._repr_html_()
    assert html.startswith("<pre")
    assert "probabilities-as-logits" in html
    console = Console(width=60)
    with console.capture() as capture:
        console.print(found)
    assert max(map(len, capture.get().splitlines())) <= 60


def test_one_line_for_each_experiment() -> None:
    names = [experiment.name for experiment in preflight(Plain(), digits()).experiments]
    assert len(names) == len(set(names))


def test_only_what_is_asked_for() -> None:
    found = preflight(Probabilities(), digits(), select=["batch-mixing"])
    assert found.findings == ()
    assert set(outcomes(found)) == {"another sample of the batch"}
    found = preflight(
        Probabilities(), digits(), ignore=["probabilities-as-logits", "start_simple", "data"]
    )
    assert alarms(found) == []


class TestLearningRates:
    def of(self, model: Any) -> tuple[str, str]:
        found = preflight(model, digits(n=320))
        return next(
            (e.outcome, e.detail) for e in found.experiments if e.name == "learning rate range"
        )

    @pytest.mark.parametrize("model", [Plain, Unified])
    def test_the_tuner_suggests_one(self, model: Any) -> None:
        outcome, detail = self.of(model())
        assert outcome == "passed"
        assert detail.startswith("0.003 is set; Lightning's Tuner suggests 0.0")

    def test_a_module_without_a_rate(self) -> None:
        outcome, detail = self.of(Program(network()))
        assert outcome == "not applicable"
        assert detail == "the module has no attribute lr or learning_rate"

    def test_a_loss_that_does_not_fall(self) -> None:
        class Stuck(Plain):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return super().training_step(batch, batch_idx) * 0.0 + 1.0

        assert self.of(Stuck())[0] == "not applicable"


class TestNoTrace:
    def state(self, model: pl.LightningModule, data: Any) -> list[Any]:
        return [
            {name: value.clone() for name, value in model.state_dict().items()},
            [p.grad for p in model.parameters()],
            [m.training for m in model.modules()],
            {k: v for k, v in vars(model).items() if not k.startswith("_")},
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            dict(os.environ),
            os.getcwd(),
            data.generator.get_state().tolist(),
        ]

    @pytest.mark.parametrize("seed", [None, 3])
    def test_of_model_generators_and_process(self, seed: int | None, tmp_path: Any) -> None:
        class Careless(Plain):
            """Changes what is around it."""

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                print("a word")  # noqa: T201
                os.environ["CARELESS"] = "1"
                self.steps = batch_idx
                x, y = batch
                noise = random.random() + float(np.random.rand()) + torch.rand(())
                return super().training_step((x + 0.01 * noise, y), batch_idx)

            def on_train_end(self) -> None:
                os.chdir(tmp_path)

        model = Careless()
        model.net[1].eval()
        generator = torch.Generator().manual_seed(1)
        data = DataLoader(digits(n=320).dataset, batch_size=32, shuffle=True, generator=generator)
        before = copy.deepcopy(self.state(model, data))
        found = preflight(model, data, seed=seed)
        assert found.failures == {}
        after = self.state(model, data)
        assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
        assert str(before[1:]) == str(after[1:])
        assert model._trainer is None

    def test_of_the_data_module(self) -> None:
        data = Digits()
        preflight(Plain(), datamodule=data)
        assert data.trainer is None
        assert not hasattr(data, "data")

    def test_nothing_is_printed_or_written(
        self, capfd: Any, tmp_path: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        preflight(Plain(), digits(n=320), digits(n=64, shuffle=False))
        assert capfd.readouterr() == ("", "")
        assert list(tmp_path.iterdir()) == []

    def test_after_an_error_in_the_step(self) -> None:
        class Fails(Plain):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                raise ZeroDivisionError("of the user")

        before = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError, match="of the user"):
            preflight(Fails(), digits())
        assert torch.equal(before, torch.get_rng_state())

    def test_after_an_interrupt(self) -> None:
        class Interrupted(Plain):
            def on_train_epoch_start(self) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            preflight(Interrupted(), digits())

    def test_the_same_seed_finds_the_same(self) -> None:
        first, second = (preflight(Plain(), digits(), seed=5).experiments for _ in range(2))
        assert [(e.name, e.outcome, e.detail) for e in first] == [
            (e.name, e.outcome, e.detail) for e in second
        ]


class TestBadInput:
    @pytest.mark.parametrize(
        ("model", "arguments", "error", "message"),
        [
            (3, {}, TypeError, "model=3 is not a LightningModule"),
            (nn.Linear(1, 1), {}, TypeError, "is not a LightningModule"),
            (Plain, {}, TypeError, "is not a LightningModule; pass an object of it"),
            (Plain(), {"seconds": 0}, ValueError, "seconds=0 must be greater than 0"),
            (Plain(), {"seconds": True}, TypeError, "seconds=True must be a number"),
            (Plain(), {"steps": -1}, ValueError, "steps=-1 must be greater than 0"),
            (Plain(), {"steps": 1.5}, TypeError, "steps=1.5 must be a whole number"),
            (Plain(), {"select": ["dead-rellu"]}, ValueError, "Did you mean 'dead-relu'"),
            (Plain(), {"datamodule": Digits()}, ValueError, "not both"),
        ],
    )
    def test_it_is_named(self, model: Any, arguments: Any, error: Any, message: str) -> None:
        with pytest.raises(error) as caught:
            preflight(model, digits(), **arguments)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            (None, ValueError, "there are no data: give train_dataloaders or a datamodule"),
            ([], ValueError, "train_dataloaders=[] is empty"),
            (
                DataLoader(TensorDataset(torch.zeros(3, 64)), batch_size=4, drop_last=True),
                ValueError,
                "is empty: there is no batch in it",
            ),
            (iter([]), TypeError, "is an iterator, which can be read only once"),
            (DataLoader(Empty()), ValueError, "the training loader is empty"),
            (7, TypeError, "train_dataloaders=7 is neither a DataLoader nor a data module"),
            (torch.zeros(2), TypeError, "give a list of batches"),
        ],
    )
    def test_data_are_named(self, data: Any, error: Any, message: str) -> None:
        with pytest.raises(error) as caught:
            preflight(Plain(), data)
        assert message in str(caught.value)

    def test_something_else_than_a_data_module(self) -> None:
        with pytest.raises(TypeError, match="datamodule=3 is not a LightningDataModule"):
            preflight(Plain(), datamodule=3)

    def test_a_copy_that_does_not_fit(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(replica, "_free_memory", lambda device: 1000.0)
        with pytest.raises(RuntimeError, match="no preflight of this model: a copy would take"):
            preflight(Plain(), digits())
