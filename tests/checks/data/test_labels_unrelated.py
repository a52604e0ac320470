import pytest

from lightning_debug.checks.data.labels_unrelated import LabelsUnrelated
from lightning_debug.observation import (
    Comparison,
    LossCall,
    LossCalls,
    Losses,
    RunEnd,
    ShuffledLabels,
    Targets,
    Validation,
)
from tests.build_data import batch, start

UNRELATED = Comparison(pairs=32, alike=0.1, others=0.1, spread=0.3)
RELATED = Comparison(pairs=32, alike=0.4, others=0.1, spread=0.3)


def judge(
    *,
    train=0.5,
    fresh=2.4,
    validations=(2.35, 2.6),
    near=UNRELATED,
    looks=10,
    last=9,
    samples=640,
    resumed=False,
    value=None,
    within=-0.1,
    shuffled=None,
    classes=10,
):
    check = LabelsUnrelated()
    list(check.on_run_start(start(samples=samples)))
    references = {"uniform": 2.303, "prior": 2.2}
    found = []
    for look in range(looks + 1):
        epoch, loss = (0, fresh) if look < looks else (last, train)
        call = LossCall(
            function="cross_entropy",
            value=loss if value is None else value,
            references=references,
            target=Targets(per_sample=True),
            classes=classes,
        )
        list(check.on_batch(batch(neighbours=near)))
        list(check.on_loss_calls(LossCalls(calls=(call,), resumed=resumed, epoch=epoch)))
        if look == looks:
            for loss_seen in validations:
                list(check.on_validation(Validation(loss=loss_seen)))
        values = ((look, loss),) * 2
        if look == looks:
            values = tuple(steps(loss, within, last))
        found = list(check.on_losses(Losses(values=values, epoch=epoch)))
    if shuffled is not None:
        list(check.on_shuffled_labels(shuffled))
        found = list(check.on_run_end(RunEnd(step=200)))
    return found


def steps(loss, within, last):
    """Yield the losses of the epochs 1 to last; ``within`` is the fall in each of them."""
    for epoch in range(1, last + 1):
        for index in range(20):
            yield 20 * epoch + index, loss + within * (0.5 if index < 10 else -0.5)


def test_fires():
    (finding,) = judge()
    assert finding.message == (
        "The training cross_entropy has fallen to 0.5, but the validation loss has never been"
        " better than chance (2.35; a constant guess gives 2.2), and inputs that are near each"
        " other have unrelated labels: the labels are learned by heart."
    )


def test_fires_without_validation():
    (finding,) = judge(validations=())
    assert "the first-epoch loss has never been better than chance (2.4;" in finding.message


LIKE = ShuffledLabels(samples=600, real=0.4, highest=2.1, weak=5.0)


def test_fires_beside_shuffled_labels_though_nothing_is_learned():
    (finding,) = judge(train=2.18, validations=(), near=None, within=0.0, shuffled=LIKE)
    assert finding.message == (
        "The training cross_entropy is still 2.18, but the first-epoch loss has never been better"
        " than chance (2.4; a constant guess gives 2.2), and simple models tell the labels no"
        " better from the other samples than labels in a shuffled order (600 samples)."
    )


def test_fires_beside_shuffled_labels_that_are_learned_by_heart():
    (finding,) = judge(near=None, shuffled=LIKE)
    assert "(600 samples): the labels are learned by heart." in finding.message


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"validations": (1.9, 2.6)}, id="validation was better than chance"),
        pytest.param({"validations": (2.6,)}, id="one validation"),
        pytest.param({"validations": (), "fresh": 1.8}, id="the first epoch was better"),
        pytest.param({"validations": (), "last": 1}, id="two epochs"),
        pytest.param({"validations": (), "within": 0.1}, id="it falls within the epochs"),
        pytest.param({"train": 2.2}, id="nothing is learned"),
        pytest.param({"near": RELATED}, id="neighbours have like labels"),
        pytest.param({"near": None}, id="tokens"),
        pytest.param({"looks": 4}, id="few pairs"),
        pytest.param({"samples": 100}, id="few samples"),
        pytest.param({"resumed": True}, id="resumed"),
        pytest.param({"value": 0.1}, id="the loss has other terms"),
        pytest.param(
            {"shuffled": ShuffledLabels(samples=600, real=9.0, weak=5.0)}, id="unlike shuffled ones"
        ),
        pytest.param(
            {"near": None, "shuffled": ShuffledLabels(samples=600, real=0.4, weak=1.0)},
            id="a weak relation would not be seen",
        ),
        pytest.param(
            {"near": None, "shuffled": ShuffledLabels(skipped="there are several labels")},
            id="not applicable",
        ),
        pytest.param(
            {"train": 2.18, "validations": (), "near": None, "shuffled": LIKE, "classes": 2},
            id="a relation to two classes may be weak",
        ),
        pytest.param(
            {"train": 2.18, "validations": (), "near": None, "last": 3, "shuffled": LIKE},
            id="not tried for long",
        ),
    ],
)
def test_silent(settings):
    assert not judge(**settings)
