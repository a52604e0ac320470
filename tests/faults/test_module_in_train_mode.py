"""Models that are validated in train mode, and the same programs in eval mode."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from tests.faults.test_module_in_eval_mode import Cnn, Pretrained, Recurrent, dense
from tests.runs import Program, alarms, digits, fit, names, places, sequences


class Validated(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))


class InStep(Validated):
    """Puts itself into train mode in the validation step."""

    def __init__(self, bug):
        super().__init__(dense())
        self.bug = bug

    def validation_step(self, batch, batch_idx):
        if self.bug:
            self.train()
        super().validation_step(batch, batch_idx)


class InHook(Validated):
    """Puts its network into train mode when validation starts."""

    def __init__(self, bug):
        super().__init__(Cnn())
        self.bug = bug

    def on_validation_epoch_start(self):
        if self.bug:
            self.net.train()


class Overridden(Validated):
    """Takes what Lightning does before validation away."""

    def __init__(self, bug):
        super().__init__(Pretrained(False))
        self.bug = bug

    def on_validation_model_eval(self):
        if not self.bug:
            super().on_validation_model_eval()


class Switch(pl.Callback):
    def __init__(self, bug):
        self.bug = bug

    def on_validation_start(self, trainer, pl_module):
        pl_module.net.train(self.bug)


class FromCallback(Validated):
    """A callback of the user's puts an LSTM into train mode."""

    def __init__(self, bug):
        super().__init__(Recurrent())
        self.bug = bug

    def configure_callbacks(self):
        return [Switch(self.bug)]


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(InStep, digits, "model", id="mlp, validation_step"),
        pytest.param(InHook, lambda: digits(flat=False, n=256), "net", id="cnn, hook"),
        pytest.param(Overridden, sequences, "model", id="transformer, no eval"),
        pytest.param(FromCallback, sequences, "net", id="lstm, callback"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data(), validation=data())
    assert "module-in-train-mode" in names(broken)
    assert places(broken, "module-in-train-mode") == {where}
    fixed = fit(lambda: program(False), data(), validation=data())
    assert [a for a in alarms(fixed) if "train-val-overlap" not in a] == []


def test_leaves_no_hook_behind():
    fit(lambda: InStep(True), digits(n=128), validation=digits(n=128), epochs=1)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
