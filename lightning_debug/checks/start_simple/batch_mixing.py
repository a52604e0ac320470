"""Outputs for one sample that depend on other samples of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import BatchMixing as Seen
from lightning_debug.observation import MixedOutput


@dataclass(kw_only=True)
class BatchMixing(Check):
    """In eval mode, the output for one sample changes with another sample of the batch.

    Why: data of different samples are mixed on the way through the model, which then learns from
    noise; and what it predicts for a sample depends on its neighbours.

    Silent when: only batch statistics mix samples (batch norm); the training step mixes them before
    the model gets them (mixup) by more than putting values in other places, or afterwards
    (contrastive losses, similarity matrices of all pairs); a change of routing does (experts with a
    capacity); one statistic of the batch is appended for all samples, or a model of an adversarial
    game gives one value a sample; the batch is no set of samples (graphs, one point set).

    Source: https://karpathy.github.io/2019/04/25/recipe/
    """

    fix = (
        "Use transpose() or permute() where view() or reshape() is meant to exchange axes; pass"
        " batch_first=True to nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.LSTM or nn.GRU"
        " for inputs of shape (batch, time, features); take softmax, mean and cumsum over an axis"
        " other than 0."
    )
    severity = Severity.ERROR

    def on_batch_mixing(self, obs: Seen) -> Iterator[Finding]:
        """Name the innermost modules that mix."""
        for output in obs.outputs:
            yield self.finding(
                obs,
                f"Of {obs.samples} samples one was exchanged for another, in eval mode, and"
                f" {_subject(output)} changed for other samples, too.",
                where=output.place,
                samples=float(obs.samples),
            )


def _subject(output: MixedOutput) -> str:
    if output.kind:
        return f"the output of {output.place} ({output.kind})"
    return f"the prediction that {output.function} compares with the target, in {output.place},"
