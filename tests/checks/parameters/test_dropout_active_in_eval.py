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


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(dropped(), id="training"),
        pytest.param(dropped("validation", declared=True), id="declared"),
        pytest.param(dropped("validation", passes=8), id="sampled"),
    ],
)
def test_silent(obs):
    assert judged(DropoutActiveInEval(), obs) == []


def test_two_passes_of_an_input_are_no_sampling():
    assert judged(DropoutActiveInEval(), dropped("validation", passes=2))
