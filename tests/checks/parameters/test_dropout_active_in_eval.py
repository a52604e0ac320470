import pytest

from lightning_debug import Severity
from lightning_debug.checks import DropoutActiveInEval
from tests.build_norms import dropped, judged


def test_names_the_line():
    (finding,) = judged(DropoutActiveInEval(), dropped("validation", p=0.3))
    assert (finding.where, finding.severity) == ("net.2", Severity.ERROR)
    assert finding.message == (
        "dropout with p=0.3 at model.py:41 is on in validation, while net.2 is in eval mode."
    )


def test_says_what_to_type_for_attention():
    obs = dropped("validation", function="scaled_dot_product_attention")
    (finding,) = judged(DropoutActiveInEval(), obs)
    assert finding.fix == "Pass dropout_p=self.dropout if self.training else 0.0."


def test_a_module_that_eval_does_not_reach():
    (finding,) = judged(DropoutActiveInEval(), dropped("validation", outside=True))
    assert "a module that the model does not know" in finding.message
    assert "nn.ModuleList" in finding.fix


def test_noise():
    obs = dropped("validation", function="randn_like", p=0.0, noise=0.5)
    (finding,) = judged(DropoutActiveInEval(), obs)
    assert finding.message == (
        "Noise (randn_like at model.py:41, 50% of the spread of what it is added to) is on in"
        " validation, while net.2 is in eval mode."
    )
    assert "if self.training" in finding.fix


def test_random_slopes():
    (finding,) = judged(DropoutActiveInEval(), dropped("validation", function="rrelu"))
    assert "rrelu with random slopes at model.py:41 is on" in finding.message
    assert "nn.RReLU" in finding.fix


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(dropped(), id="training"),
        pytest.param(dropped("validation", declared=True), id="declared"),
        pytest.param(dropped("validation", passes=8), id="sampled"),
        pytest.param(dropped("validation", noise=0.5, passes=8), id="sampled noise"),
        pytest.param(dropped("validation", noise=1e-4), id="to keep values apart"),
    ],
)
def test_silent(obs):
    assert judged(DropoutActiveInEval(), obs) == []


def test_two_passes_of_an_input_are_no_sampling():
    assert judged(DropoutActiveInEval(), dropped("validation", passes=2))
