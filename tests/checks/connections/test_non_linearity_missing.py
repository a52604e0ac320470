import pytest

from lightning_debug.checks.connections.non_linearity_missing import NonLinearityMissing
from lightning_debug.finding import Severity
from lightning_debug.observation import DataFlow, LinearPair


def flow(**changes):
    fields = {"first": "net.0", "second": "net.1", "inner": 8, "middle": 64, "outer": 2}
    return DataFlow(linear_pairs=(LinearPair(**fields | changes),))


def test_fires():
    (finding,) = NonLinearityMissing().on_data_flow(flow(line="model.py:41"))
    assert finding.message == (
        "net.0 feeds net.1 (model.py:41) with nothing in between: the two are one linear map from"
        " 8 to 2 features, through 64."
    )
    assert finding.where == "net.0 -> net.1"
    assert finding.severity is Severity.WARNING


def test_names_what_is_in_between():
    (finding,) = NonLinearityMissing().on_data_flow(
        flow(through=("batch_norm", "dropout", "dropout"))
    )
    assert "with only batch_norm and dropout in between" in finding.message


def test_a_batch_norm_between_counts_where_other_layers_have_activations():
    pair = flow(through=("batch_norm",)).linear_pairs
    alone = DataFlow(linear_pairs=pair, bent=("head",))
    among = DataFlow(linear_pairs=pair, bent=("net.4", "head"))
    assert next(NonLinearityMissing().on_data_flow(alone)).severity is Severity.INFO
    assert next(NonLinearityMissing().on_data_flow(among)).severity is Severity.WARNING


def test_only_informs_where_an_encoder_meets_its_head():
    (finding,) = NonLinearityMissing().on_data_flow(flow(seam=True))
    assert finding.severity is Severity.INFO


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(DataFlow(), id="nothing linear in a row"),
        pytest.param(flow(inner=64, middle=8, outer=64), id="bottleneck"),
        pytest.param(flow(inner=64, middle=8, outer=10), id="narrower than both by a little"),
    ],
)
def test_silent(obs):
    assert not list(NonLinearityMissing().on_data_flow(obs))


def test_silent_where_the_layers_between_are_only_skipped():
    check = NonLinearityMissing()
    assert not list(check.on_data_flow(DataFlow(bent=("net.0",))))
    assert not list(check.on_data_flow(flow()))
