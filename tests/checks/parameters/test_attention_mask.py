"""attention-mask on hand-written observations."""

import pytest

from lightning_debug.checks.parameters.attention_mask import AttentionMask
from lightning_debug.observation import PaddingUse
from tests.build_probes import reading


def test_fires() -> None:
    (found,) = AttentionMask().on_padding_use(reading())
    assert found.where == "block"
    assert found.severity == "error"
    assert found.message == (
        "When 11 of 16 positions, which are padding in batch[0], are cut off, the output for real"
        " tokens of block (Attention) changes by 50 % of its size: the mask is missing, inverted,"
        " or on the wrong axis."
    )


def test_pooled() -> None:
    (found,) = AttentionMask().on_padding_use(reading(pooled=True))
    assert "the pooled output of block" in found.message


def test_only_informs_of_padding_in_a_mean() -> None:
    (found,) = AttentionMask().on_padding_use(reading(pooled=True, attends=False))
    assert found.severity == "info"
    assert found.message.endswith("padding counts in its mean or sum.")


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(PaddingUse(source="batch[0]", length=16, longest=5), id="mask is right"),
        pytest.param(PaddingUse(skipped="no sequence ends in padding"), id="skipped"),
    ],
)
def test_silent(obs) -> None:
    assert not list(AttentionMask().on_padding_use(obs))
