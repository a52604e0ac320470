"""Promise 2: our own failures never reach the run; they are said once."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug import DebugSuite, Finding, Sink
from lightning_debug.checks.connections.dead_relu import DeadRelu
from lightning_debug.sinks import run_folder
from lightning_debug.taps import (
    data,
    dropped_norm,
    forward,
    gradients,
    loss_calls,
    nonlinear,
    transfer,
    updates,
    wiring,
)
from tests.runs import Program, digits, quiet_trainer
from tests.test_no_trace import Plain, assert_same, bare, run

PARTS = [
    pytest.param(forward.ForwardTap, "_measure", id="modules"),
    pytest.param(forward.ForwardTap, "begin", id="opening modules"),
    pytest.param(forward.ForwardTap, "modules", id="reading modules"),
    pytest.param(loss_calls.LossTap, "after", id="loss calls"),
    pytest.param(loss_calls.LossTap, "criterion", id="criterion modules"),
    pytest.param(nonlinear.NonlinearTap, "before", id="non-linearities"),
    pytest.param(dropped_norm.DroppedNormTap, "after", id="dropout"),
    pytest.param(gradients.GradientTap, "measure", id="gradients"),
    pytest.param(updates.UpdateTap, "before", id="weights before"),
    pytest.param(updates.UpdateTap, "measure", id="weights after"),
    pytest.param(data.BatchTap, "measure", id="batch"),
    pytest.param(wiring.Wiring, "routed", id="wiring"),
    pytest.param(wiring.Wiring, "refresh", id="wiring from the start"),
    pytest.param(transfer.Ledger, "send", id="the copy"),
    pytest.param(transfer.Ledger, "settle", id="reading the copy"),
    pytest.param(DeadRelu, "on_activations", id="a check"),
]


@pytest.mark.parametrize(("owner", "method"), PARTS)
def test_a_part_that_raises_leaves_the_run_untouched_and_is_said_once(
    owner: type,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(owner, method, broken)
    suite = DebugSuite(debug=True, sinks=[])
    with caplog.at_level(logging.WARNING, "lightning_debug"):
        watched = run(Plain, [suite])
    assert_same(watched.weights, bare(Plain).weights)
    assert_same(watched.torch, bare(Plain).torch)
    assert suite.failures
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_debug"]
    assert len(said) == len(set(said)) == len(suite.failures)
    assert all("training is not affected" in message for message in said)
    assert "RuntimeError: ours" in caplog.text


class Breaks(Sink):
    def __init__(self, method: str) -> None:
        self.calls = 0
        self.method = method

    def _maybe(self, method: str) -> None:
        if method == self.method:
            self.calls += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def start(self, run: Any) -> None:
        self._maybe("start")

    def finding(self, finding: Finding, *, new: bool) -> None:
        self._maybe("finding")

    def stats(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
        self._maybe("stats")

    def close(self, findings: Any, *, status: str, failures: Any) -> None:
        self._maybe("close")


def dead() -> Program:
    program = Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    nn.init.constant_(program.net[0].bias, -50.0)
    return program


@pytest.mark.parametrize("method", ["start", "finding", "stats", "close"])
def test_a_sink_that_raises_is_called_once_and_the_others_go_on(method: str) -> None:
    sink = Breaks(method)
    suite = DebugSuite(preflight=False, sinks=[sink])
    quiet_trainer(callbacks=[suite]).fit(dead(), digits())
    assert sink.calls == 1
    assert "No space left" in suite.failures["sink Breaks"]
    assert "dead-relu" in {f.name for f in suite.findings}


def test_a_full_disk_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_folder.os, "replace", full)
    suite = DebugSuite(preflight=False)
    quiet_trainer(callbacks=[suite], default_root_dir=tmp_path).fit(dead(), digits())
    assert "No space left" in suite.failures["sink RunFolder"]
    assert "dead-relu" in {f.name for f in suite.findings}


def test_an_interrupt_in_our_code_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gradients.GradientTap, "measure", interrupt)
    with pytest.raises(SystemExit):  # as Lightning does it
        quiet_trainer(callbacks=[DebugSuite(preflight=False, sinks=[])]).fit(dead(), digits())


class Odd(nn.Module):
    """Gives and takes what cannot be measured like a plain float tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 8, sparse=True)
        self.phase = nn.Parameter(torch.randn(64, dtype=torch.complex64))
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.register_buffer(
            "codes", torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
        )
        self.shape = Shape()
        self.head = nn.Linear(64 + 8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = self.shape(torch.fft.fft(x) * self.phase)
        looked_up = self.table((x[:, 0] * 10).long())
        nested = torch.nested.nested_tensor([x[0], x[1, :3]])
        assert nested.is_nested
        sparse = (x * (x > 0.5)).to_sparse()
        assert sparse.is_sparse
        return self.scalar * self.head(torch.cat([spectrum.abs(), looked_up], 1)) + (
            self.codes.dequantize().sum() + self.empty.sum()
        )


class Shape(nn.Module):
    """A leaf module with a complex output, no arguments that are tensors only, and a dict."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_odd_tensors_are_measured_or_passed_over() -> None:
    class SparsePart(Program):
        def __init__(self) -> None:
            super().__init__(Odd())
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            loss = F.cross_entropy(self(x), y)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            others = [p for n, p in self.named_parameters() if "table" not in n]
            sparse = torch.optim.SparseAdam(list(self.net.table.parameters()), lr=1e-3)
            return torch.optim.SGD(others, lr=1e-2), sparse

    suite = DebugSuite(debug=True, sinks=[])
    quiet_trainer(callbacks=[suite]).fit(SparsePart(), digits())
    assert suite.failures == {}


def test_a_step_inside_of_function_transforms_is_passed_over() -> None:
    class PerSample(Program):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            weights = dict(self.net.named_parameters())

            def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                logits = torch.func.functional_call(self.net, weights, (x[None],))
                return F.cross_entropy(logits, y[None])

            return torch.func.vmap(loss)(*batch).mean()

    def stuck() -> PerSample:
        program = PerSample(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))
        program.spare = nn.Linear(3, 3)
        return program

    suite = DebugSuite(debug=True, sinks=[])
    quiet_trainer(callbacks=[suite]).fit(stuck(), digits())
    assert suite.failures == {}
    assert [finding.name for finding in suite.findings] == ["no-gradient"]
