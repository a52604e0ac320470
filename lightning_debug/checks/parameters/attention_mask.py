"""Attention that reads padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import PaddingUse


@dataclass(kw_only=True)
class AttentionMask(Check):
    """Attention reads padding: without the padding, the output for real tokens is another one.

    Why: what the model says about a sequence depends on how long the others of its batch are, and
    attention is spent on nothing; with an inverted mask it never sees the data.

    Silent when: no sequence ends in padding; the model does without attention (recurrent nets and
    convolutions that read padding); real tokens come out the same without the padding, or, where
    the length is fixed, with other vectors in the place of the embedded padding. A mean or sum
    over all positions that counts padding is only said as information.
    """

    fix = (
        "Pass the mask: key_padding_mask=(ids == pad) in nn.MultiheadAttention,"
        " src_key_padding_mask=(ids == pad) in nn.TransformerEncoder: True means ignore, but in"
        " attn_mask of F.scaled_dot_product_attention True means attend. Add -inf, not 0 or 1, to"
        " scores at padding; divide masked sums by the number of real tokens."
    )
    severity = Severity.ERROR

    def on_padding_use(self, obs: PaddingUse) -> Iterator[Finding]:
        """Name the innermost modules that read padding."""
        for output in obs.outputs:
            done = "exchanged" if obs.exchanged else "cut off"
            kind = f" ({output.kind})" if output.kind else ""
            what = "the pooled output" if output.pooled else "the output for real tokens"
            reason = "the mask is missing, inverted, or on the wrong axis"
            if not output.attends:
                reason = "padding counts in its mean or sum"
            yield self.finding(
                obs,
                f"When {obs.length - obs.longest} of {obs.length} positions, which are padding in"
                f" {obs.source}, are {done}, {what} of {output.place}{kind} changes by"
                f" {100 * output.change:.0f} % of its size: {reason}.",
                where=output.place,
                severity=None if output.attends else Severity.INFO,
                change=output.change,
                length=float(obs.length),
                longest=float(obs.longest),
            )
