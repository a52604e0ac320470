import pytest

from lightning_debug.checks import DropoutMisplaced
from tests.build_norms import dropped, judged, lost


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        pytest.param(
            dropped(loss="cross_entropy", p=0.2),
            "dropout at net.2 (model.py:41, p=0.2) drops of the prediction: what it gives goes to"
            " cross_entropy with no layer in between.",
            id="prediction",
        ),
        pytest.param(
            dropped(p=0.9),
            "dropout at net.2 (model.py:41, p=0.9) leaves 10% of the values.",
            id="nearly everything",
        ),
        pytest.param(
            dropped(function="dropout1d", drops="samples", shape=(32, 64)),
            "dropout1d at net.2 (model.py:41, p=0.5) gets an input of shape (32, 64), where it"
            " drops whole samples instead of channels.",
            id="samples",
        ),
        pytest.param(
            dropped(function="dropout2d", drops="values", shape=(32, 64)),
            "dropout2d at net.2 (model.py:41, p=0.5) is made for channels of images and gets an"
            " input of shape (32, 64): it drops single values, and later versions of torch refuse"
            " such an input.",
            id="values",
        ),
        pytest.param(
            lost(),
            "net.2.p was 0.5 before validation and is 0 in training since: nothing is dropped any"
            " more.",
            id="lost",
        ),
    ],
)
def test_says_what_is_wrong(obs, message):
    (finding,) = judged(DropoutMisplaced(), obs)
    assert finding.where == "net.2"
    assert finding.message == message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(dropped(), id="before a layer"),
        pytest.param(dropped(p=0.9, source=""), id="of data"),
        pytest.param(dropped("validation", p=0.95), id="validation"),
        pytest.param(dropped(p=0.8), id="much"),
    ],
)
def test_silent(obs):
    assert judged(DropoutMisplaced(), obs) == []
