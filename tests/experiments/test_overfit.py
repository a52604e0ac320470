"""Two samples by heart: which, how they are scored, and when nothing can be said."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite, LossCurve, OverfitTwoSamples
from lightning_debug.check import Check
from lightning_debug.experiments.overfit import PairEar
from tests.runs import Program, digits, fit, regression


class Heard(Check):
    """Keeps what it is shown."""

    fix = "None."
    seen = []

    def on_overfit(self, obs):
        self.seen.append(obs)
        return ()


def body(inputs=64, outputs=10):
    """Return a small net."""
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


def tried(module, data, preflight="auto", **settings):
    """Return what the experiment saw in a run of two batches."""
    Heard.seen.clear()
    suite = DebugSuite(
        checks=[Heard()], select=["cannot-overfit-batch"], preflight=preflight, sinks=[]
    )
    fit(module, data, suite=suite, epochs=1, limit_train_batches=2, **settings)
    (obs,) = Heard.seen
    return obs


def heard(function, *args, **options):
    """Return the score of the first comparison that a function makes."""
    with (ear := PairEar()):
        function(*args, **options)
    return ear.pairs[0][1] if ear.pairs else None


def wish(rows):
    """Return a prediction that carries a gradient."""
    return torch.tensor(rows, requires_grad=True)


class TestScores:
    def test_classes(self):
        out = wish([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
        score = heard(F.cross_entropy, out, torch.tensor([0, 2]))
        assert (score.metric, score.value, score.chance) == ("accuracy", 0.5, 0.5)

    def test_classes_that_do_not_count_are_left_out(self):
        out = wish([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
        score = heard(F.cross_entropy, out, torch.tensor([0, -100, 1]))
        assert (score.value, score.many) == (0.5, 2)

    def test_by_rounding_is_not_right(self):
        out = wish([[2.0, 2.001, -3.0], [2.0, 2.001, -3.0]])
        assert heard(F.cross_entropy, out, torch.tensor([0, 1])).value == 0.0

    def test_classes_of_pixels(self):
        out = wish([[[[3.0, 0.0]], [[0.0, 3.0]]], [[[3.0, 0.0]], [[0.0, 3.0]]]])
        score = heard(F.cross_entropy, out, torch.tensor([[[0, 1]], [[0, 0]]]))
        assert (score.value, score.chance, score.many) == (0.75, 0.75, 4)

    def test_probabilities_as_targets(self):
        out = wish([[2.0, 1.0], [2.0, 1.0]])
        score = heard(F.cross_entropy, out, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        assert (score.metric, score.value) == ("accuracy", 0.5)

    def test_classes_that_share_the_first_place(self):
        target = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
        score = heard(F.cross_entropy, wish(target.clamp_min(1e-9).log().tolist()), target)
        assert (score.metric, score.value) == ("explained variance", pytest.approx(1.0))
        counts = 4 * target  # of several true classes, and of none
        assert heard(F.cross_entropy, wish([[9.0, 9.0, 0.0, 0.0]] * 3), counts).value < 0.5

    @pytest.mark.parametrize("function", [F.mse_loss, F.l1_loss, F.huber_loss])
    def test_real_targets(self, function):
        target = torch.tensor([[1.0], [3.0]])
        assert heard(function, wish([[1.0], [3.0]]), target).value == 1.0
        assert heard(function, wish([[2.0], [2.0]]), target).value == 0.0

    def test_a_difference_by_hand(self):
        score = heard(torch.sub, wish([[1.0], [3.0]]), torch.tensor([[1.0], [3.0]]))
        assert (score.metric, score.value) == ("explained variance", 1.0)

    def test_binary_targets(self):
        target = torch.tensor([[1.0], [0.0]])
        score = heard(F.binary_cross_entropy_with_logits, wish([[9.0], [-9.0]]), target)
        assert score.value == pytest.approx(1.0, abs=1e-3)

    def test_equal_targets_say_nothing(self):
        assert heard(F.mse_loss, wish([[1.0], [3.0]]), torch.ones(2, 1)) is None
        assert heard(F.cross_entropy, wish([[1.0, 3.0]]), torch.tensor([1])) is None

    def test_one_sample_of_many_numbers_is_held_against_their_mean(self):
        target = torch.tensor([[1.0, 3.0]])
        assert heard(F.mse_loss, wish([[2.0, 2.0]]), target).value == 0.0

    def test_predictions_that_are_not_finite(self):
        target = torch.tensor([[1.0], [3.0]])
        assert heard(F.mse_loss, wish([[math.nan], [3.0]]), target).value == -math.inf


def test_nothing_is_dropped_while_it_listens():
    x = torch.ones(100, requires_grad=True)
    with PairEar():
        for function in (F.dropout, F.alpha_dropout, F.feature_alpha_dropout):
            assert torch.equal(function(x[None], 0.9, True)[0], x)
        assert torch.equal(torch.dropout(x, 0.9, True), x)


def test_two_samples_with_different_targets_are_learned():
    obs = tried(lambda: Program(body()), digits())
    assert (obs.samples, obs.metric, obs.chance) == (2, "accuracy", 0.5)
    (arm,) = obs.arms
    assert arm.solved
    assert arm.score == 1.0
    assert obs.curve == arm.losses
    assert not arm.still
    assert obs.whole
    assert not obs.validated
    assert 0.0 <= obs.unseen <= 1.0


def test_samples_are_told_apart_where_modules_are_given_them_by_keyword():
    class ByKeyword(Program):
        def forward(self, x):
            return self.net[2](input=self.net[1](input=self.net[0](input=x)))

    (arm,) = tried(lambda: ByKeyword(body()), digits()).arms
    assert arm.solved


def test_one_section_copies_the_validation_data_for_all():
    kept = []

    class Watched(Program):
        def on_train_start(self):
            kept.extend(getattr(callback, "_held_out", None) for callback in sections)

        def validation_step(self, batch, batch_idx):
            pass

    sections = [OverfitTwoSamples(sinks=[]), LossCurve(sinks=[])]
    settings = {"validation": digits(), "limit_train_batches": 2, "num_sanity_val_steps": 1}
    fit(lambda: Watched(body()), digits(), suite=sections[0], callbacks=(sections[1],), **settings)
    assert kept == [None, None]


def test_validation_data_are_scored_where_there_are_some():
    class Validated(Program):
        def validation_step(self, batch, batch_idx):
            self.log("loss", self.loss(self(batch[0]), batch[1]))

    obs = tried(lambda: Validated(body()), digits(), validation=digits(), num_sanity_val_steps=1)
    assert obs.validated
    assert obs.unseen < 0.5  # two samples say little of ten classes


def test_other_learning_rates_are_tried_where_that_of_the_user_does_not_do():
    slow = lambda p: torch.optim.SGD(p, 1e-6)  # noqa: E731
    obs = tried(lambda: Program(body(), optimizer=slow), digits())
    assert [arm.factor for arm in obs.arms][:3] == [1.0, 10.0, 100.0]
    assert obs.arms[-1].solved


def test_parts_that_do_not_move_are_named():
    class Cut(Program):
        def forward(self, x):
            return self.net[2](self.net[:2](x).detach().clamp(max=0.0))

    obs = tried(lambda: Cut(body()), digits())
    assert not any(arm.solved for arm in obs.arms)
    assert {"net.0.weight", "net.0.bias"} <= set(obs.arms[0].still)


def moving(prediction, target):
    """The target is what the model says itself."""
    return F.mse_loss(prediction, 0.5 * prediction.detach() + target)


def unlike(prediction, target):
    """Nothing is compared with data."""
    return prediction.logsumexp(1).square().mean()


@pytest.mark.parametrize(
    ("module", "data", "reason"),
    [
        pytest.param(
            lambda: Program(body(8, 1), moving), regression(), "others at each step", id="moving"
        ),
        pytest.param(lambda: Program(body(), unlike), digits(), "no predictions", id="no pair"),
        pytest.param(
            lambda: Program(body(), optimizer=lambda p: torch.optim.SGD(p, 0.0)),
            digits(),
            "the learning rate is 0",
            id="rate of zero",
        ),
        pytest.param(
            lambda: Program(nn.Linear(3, 1), F.mse_loss),
            DataLoader(TensorDataset(torch.randn(64, 3), torch.ones(64, 1)), batch_size=8),
            "no predictions with targets that differ",
            id="equal targets",
        ),
    ],
)
def test_it_says_why_it_cannot_tell(module, data, reason):
    assert reason in tried(module, data).skipped


def test_what_would_take_too_long_is_not_tried():
    slow = lambda p: torch.optim.SGD(p, 1e-6)  # noqa: E731
    obs = tried(lambda: Program(body(), optimizer=slow), digits(), preflight=0.01)
    assert "would take" in obs.skipped
