import pytest

from lightning_debug.checks.parameters.sgd_without_momentum import SgdWithoutMomentum
from tests.build_precision import plan


def found(obs):
    return list(SgdWithoutMomentum().on_plan(obs))


def test_plain_sgd():
    (finding,) = found(plan("SGD", momentum=0.0, lr=0.1))
    assert finding.message == "SGD runs with momentum=0 at a learning rate of 0.1."
    assert finding.severity == "info"


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(plan("SGD", momentum=0.9), id="momentum"),
        pytest.param(plan("Adam"), id="Adam"),
        pytest.param(plan("RMSprop", momentum=0.0, eps=1e-8), id="RMSprop"),
        pytest.param(plan("LBFGS"), id="LBFGS"),
        pytest.param(plan("DPOptimizer", momentum=0.0), id="a class around SGD"),
        pytest.param(plan("SGD", momentum=0.0, automatic=False), id="manual: an inner loop"),
        pytest.param(plan("SGD", momentum=0.0, count=2), id="one of several"),
        pytest.param(plan("SGD", momentum=0.0, count=0), id="none"),
    ],
)
def test_silent(obs):
    assert not found(obs)
