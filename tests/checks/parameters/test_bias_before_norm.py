import pytest

from lightning_debug import Severity
from lightning_debug.checks import BiasBeforeNorm
from tests.build_norms import biased, judged


def test_names_both():
    (finding,) = judged(BiasBeforeNorm(), biased())
    assert (finding.where, finding.severity) == ("net.0", Severity.INFO)
    assert finding.message == (
        "The bias of net.0 is subtracted again by net.1: its gradient is 1e-08 of that of the"
        " weight."
    )


@pytest.mark.parametrize("share", [0.1, 2.0, float("nan")])
def test_silent(share):
    assert judged(BiasBeforeNorm(), biased(share=share)) == []
