import builtins
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite
from lightning_debug.experiments.attribution import explainers
from lightning_debug.experiments.pictures import pictures
from lightning_debug.experiments.probes import Budget
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.picture import Bars, Image
from tests.drawn import Album, drawn
from tests.runs import Program, digits, quiet_trainer, regression, sequences

FOREVER = math.inf
TITLE = "pictures of what it looks at"


def made(model, batch, *, end=FOREVER, step=7):
    """Return what is drawn of a model, and what is said of it."""
    shown = []
    replica = Replica(model, dtype=None)
    with replica.working():
        means = explainers(model, batch)
        obs = pictures(replica, batch, shown.append, means, end, step=step, epoch=0)
    return shown, obs


def kind(shown, name):
    return [picture for picture in shown if picture.kind == name]


def batch_of(data):
    return next(iter(data))


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 16, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def images():
    return batch_of(digits(flat=False, shuffle=False))


def test_images_get_feature_maps_units_saliency_and_grad_cam():
    shown, obs = made(Program(cnn()), images())
    assert [(p.kind, p.place) for p in shown] == [
        ("feature maps", "net.0"),
        ("feature maps", "net.3"),
        ("units", "net.2"),
        ("units", "net.4"),
        ("saliency", "batch[0]"),
        ("Grad-CAM", "net.3"),
    ]
    assert obs.summary == "feature maps, units, saliency, Grad-CAM"
    assert all(picture.step == 7 for picture in shown)
    assert all(picture.pixels.dtype == np.uint8 for picture in shown)
    assert all(picture.pixels.shape[1] <= 512 for picture in shown)


def test_captions_say_what_is_to_be_seen():
    shown, _ = made(Program(cnn()), images(), step=1200)
    assert kind(shown, "feature maps")[1].caption == (
        "12 of 16 maps of net.3 (Conv2d), after 1200 updates: a row for each of 3 samples, a column"
        " for each map; each is scaled on its own, light is large"
    )
    assert kind(shown, "saliency")[0].caption == (
        "saliency for 6 samples, after 1200 updates: above the images, below how much each pixel"
        " changes the score of the true answer; each is scaled on its own, light is much"
    )


class Corner(nn.Module):
    """Knows the class from one pixel, at row 2 and column 5."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x):
        return x[:, 0, 2, 5, None] * self.scale


def test_saliency_is_where_the_model_looks():
    shown, _ = made(Program(Corner()), images())
    [saliency] = kind(shown, "saliency")
    below = saliency.pixels[-48:, :48]
    assert below[2 * 6 : 3 * 6, 5 * 6 : 6 * 6].min() == 255
    assert below.sum() == 255 * 36


class Halves(nn.Module):
    """Speaks for class 1 where the left half is light."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        left = self.conv(x)[..., :4].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(left), left], 1)


def test_grad_cam_is_where_a_layer_speaks_for_the_class():
    x = torch.ones(4, 1, 8, 8)
    shown, _ = made(Program(Halves()), [x, torch.ones(4, dtype=torch.long)])
    [cam] = kind(shown, "Grad-CAM")
    assert cam.place == "net.conv"
    assert cam.pixels[-48:, :48].min() == 255


def test_colours_are_shown():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    x = torch.rand(8, 3, 8, 8)
    shown, _ = made(Program(net), [x, torch.arange(8)])
    assert kind(shown, "saliency")[0].pixels.ndim == 3
    assert kind(shown, "feature maps")[0].pixels.ndim == 2


def test_columns_of_a_table():
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    net.weight.data = torch.tensor([[2.0, 0.0, -1.0]])
    x = torch.randn(64, 3) * torch.tensor([1.0, 5.0, 4.0])
    shown, obs = made(Program(net, F.mse_loss), [x, torch.randn(64, 1)])
    [bars] = shown
    assert isinstance(bars, Bars)
    assert (bars.kind, bars.place) == ("input gradients", "batch[0]")
    assert bars.labels == ("column 0", "column 1", "column 2")
    spread = x.std(0, correction=0).tolist()
    assert bars.values == pytest.approx([2.0 * spread[0], 0.0, spread[2]], rel=1e-4)
    assert bars.caption == (
        "how much the prediction changes when a column moves by its standard deviation,"
        " after 7 updates"
    )
    assert obs.missing == ()


def test_many_columns():
    shown, _ = made(Program(nn.Linear(64, 10)), batch_of(digits()))
    [bars] = shown
    assert len(bars.labels) == len(bars.values) == 40
    assert bars.caption.endswith("the 40 strongest of 64")
    numbers = [int(label.removeprefix("column ")) for label in bars.labels]
    assert numbers == sorted(numbers)


class Tokens(nn.Module):
    """Reads the third token only."""

    def __init__(self, trained=True):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 2)
        self.embedding.requires_grad_(trained)

    def forward(self, ids):
        return self.head(self.embedding(ids)[:, 2])


@pytest.mark.parametrize("trained", [True, False])
def test_positions_of_tokens(trained):
    shown, _ = made(Program(Tokens(trained)), batch_of(sequences(length=5)))
    [bars] = kind(shown, "input gradients")
    assert bars.labels == tuple(f"position {i}" for i in range(5))
    assert [value > 0 for value in bars.values] == [False, False, True, False, False]


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 20)

    def forward(self, ids):
        return self.head(self.rnn(self.embedding(ids))[0]).transpose(1, 2)


def test_a_prediction_for_each_token():
    ids = torch.randint(20, (8, 6))
    shown, _ = made(Program(Language()), [ids[:, :-1], ids[:, 1:]])
    [bars] = kind(shown, "input gradients")
    assert len(bars.values) == 5
    assert min(bars.values) > 0


def test_a_series():
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 1))
    shown, _ = made(Program(net, F.mse_loss), [torch.randn(8, 10, 3), torch.randn(8, 1)])
    [bars] = kind(shown, "input gradients")
    assert bars.labels[-1] == "position 9"


def test_units_that_never_fire():
    net = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    nn.init.zeros_(net[0].weight)
    net[0].bias.data = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, -1.0])
    shown, _ = made(Program(net), batch_of(digits()))
    [units] = kind(shown, "units")
    assert units.place == "net.1"
    assert units.caption.endswith("4 never fire for these samples, and 2 always do")
    assert units.pixels.shape == (32 * 8, 6 * 8)
    assert units.pixels[:, :16].min() == 255
    assert units.pixels[:, 16:].max() == 0


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(F.relu(self.two(F.relu(self.norm(self.one(x))))))


def test_units_of_functions_are_those_of_the_layers_before():
    shown, _ = made(Program(Functional()), batch_of(digits()))
    assert [p.place for p in kind(shown, "units")] == ["net.norm", "net.two"]


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda out, y: F.nll_loss(F.log_softmax(out, 1), y), id="log-probabilities"),
        pytest.param(lambda out, y: -out.log_softmax(1).gather(1, y[:, None]).mean(), id="by hand"),
        pytest.param(
            lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], (y > 4).float()), id="two"
        ),
        pytest.param(
            lambda out, y: F.binary_cross_entropy_with_logits(out, F.one_hot(y, 10).float()),
            id="labels",
        ),
        pytest.param(lambda out, y: F.mse_loss(out[:, 0], y.float()), id="a value"),
    ],
)
def test_the_answer_is_found_in_other_losses(loss):
    shown, obs = made(Program(cnn(), loss), images())
    assert len(kind(shown, "saliency")) == 1
    assert obs.missing == ()


class Watched(Program):
    """Runs the network for a log first, on other data."""

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.log("mean", self.net(batch[0] + 1.0).mean())
        return super().training_step(batch, batch_idx)


def test_the_run_that_counts_is_taken_apart():
    shown, obs = made(Watched(cnn()), images())
    plain, _ = made(Program(cnn()), images())
    assert obs.missing == ()
    [watched], [alone] = kind(shown, "saliency"), kind(plain, "saliency")
    assert np.array_equal(watched.pixels, alone.pixels)


class Adversarial(Program):
    """Two optimizers: what is predicted nobody knows."""

    def configure_optimizers(self):
        return [torch.optim.SGD([p], lr=0.1) for p in list(self.parameters())[:2]]


@pytest.mark.parametrize(
    ("model", "batch", "reason"),
    [
        pytest.param(
            lambda: Program(nn.Conv2d(1, 1, 3, padding=1), lambda out, x: F.mse_loss(out, x)),
            [torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)],
            "it predicts several numbers for each image",
            id="images of images",
        ),
        pytest.param(
            lambda: Program(nn.Conv2d(1, 2, 3), lambda out, y: out.square().mean()),
            [torch.rand(4, 1, 8, 8), torch.zeros(4)],
            "no prediction meets a target in the loss",
            id="no target",
        ),
    ],
)
def test_what_cannot_be_told(model, batch, reason):
    _, obs = made(model(), batch)
    assert obs.missing == (reason,)


def test_nothing_to_draw_at_all():
    net = nn.Sequential(nn.Conv3d(1, 1, 3), nn.Flatten(), nn.Linear(216, 2))
    with pytest.raises(NotApplicableError, match="4x1x8x8x8 is no image, table or sequence"):
        made(Program(net), [torch.rand(4, 1, 8, 8, 8), torch.zeros(4, dtype=torch.long)])


def test_several_optimizers():
    model = Adversarial(cnn())
    replica = Replica(model, model.configure_optimizers(), dtype=None)
    with replica.working():
        obs = pictures(replica, images(), lambda p: None, None, FOREVER, step=0, epoch=0)
    assert obs.missing == ("several optimizers: it is not clear what is predicted",)


def test_no_time_for_gradients():
    shown, obs = made(Program(cnn()), images(), end=-FOREVER)
    assert kind(shown, "feature maps")
    assert not kind(shown, "saliency")
    assert obs.missing == ("there is no time for gradients of inputs",)


def test_without_captum(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    shown, obs = made(Program(cnn()), images())
    assert kind(shown, "feature maps")
    assert not kind(shown, "saliency")
    assert 'pip install "lightning-debug[pictures]"' in obs.summary


def test_captum_is_loaded_for_images_only():
    dense, convolutional = nn.Linear(64, 10), nn.Conv2d(1, 4, 3)
    assert explainers(dense, batch_of(digits())) is None
    assert explainers(dense, images()) is not None
    assert explainers(convolutional, batch_of(digits())) is not None


def test_images_that_the_step_makes_of_rows_are_explained():
    class Folding(Program):
        def forward(self, x):
            return self.net(x.view(-1, 1, 8, 8))

    shown, _ = made(Folding(nn.Sequential(*cnn())), batch_of(digits()))
    assert kind(shown, "saliency")
    assert kind(shown, "Grad-CAM")


def test_a_model_that_draws_and_forgets_is_left_as_it_is():
    model = Program(nn.Sequential(nn.Dropout(0.5), *cnn()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch, state = images(), torch.get_rng_state()
    made(model, batch)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


# -- in a run ------------------------------------------------------------------------------


def in_a_run(module, data, **settings):
    album = Album()
    suite = DebugSuite(sinks=[album], **settings)
    quiet_trainer(max_epochs=1, callbacks=[suite]).fit(module, data)
    assert not suite.failures, suite.failures
    [*told] = [e for e in suite.experiments if e.name == TITLE]
    return album.pictures, told


def test_they_are_made_at_the_end_of_a_run_and_told_as_an_experiment():
    shown, [told] = in_a_run(Program(cnn()), digits(flat=False, n=64))
    ours = [p for p in shown if isinstance(p, Image) and p.kind != "filters"]
    assert {p.step for p in ours} == {2}
    assert (told.outcome, told.findings, told.step) == ("passed", (), 2)
    assert told.detail == "feature maps, units, saliency, Grad-CAM"


def test_a_section_alone_draws_them():
    found = drawn(lambda: Program(cnn()), digits(flat=False, n=64), preflight="auto")
    assert {"feature maps", "saliency"} <= {p.kind for p in found if isinstance(p, Image)}


def test_a_model_that_they_tell_nothing_about():
    class Own(Program):
        def training_step(self, batch, batch_idx):
            return (self.net(batch[0]).sum() - 1.0).square()

    _, [told] = in_a_run(Own(nn.Linear(8, 1)), regression(n=64))
    assert told.outcome == "not applicable"
    assert told.detail == "no prediction meets a target in the loss"


def test_without_copies_there_are_filters_only():
    shown, told = in_a_run(Program(cnn()), digits(flat=False, n=64), preflight=False)
    assert {p.kind for p in shown if isinstance(p, Image)} == {"filters"}
    assert told == []


def test_nobody_draws_for_nobody():
    suite = DebugSuite(sinks=[])
    data = digits(flat=False, n=64)
    quiet_trainer(max_epochs=1, callbacks=[suite]).fit(Program(cnn()), data)
    assert TITLE not in {e.name for e in suite.experiments}


def test_a_run_that_fails_draws_none():
    class Fails(Program):
        def on_train_epoch_end(self):
            raise KeyError("user's own")

    album = Album()
    suite = DebugSuite(sinks=[album])
    with pytest.raises(KeyError):
        quiet_trainer(max_epochs=1, callbacks=[suite]).fit(Fails(cnn()), digits(flat=False, n=64))
    assert "saliency" not in {p.kind for p in album.pictures if isinstance(p, Image)}


def test_detections():
    """A list of dictionaries, as detection models take it."""

    class Detector(Program):
        def training_step(self, batch, batch_idx):
            total = [self.net(x[None]).sum() - y.sum() for x, y in zip(*batch, strict=True)]
            return torch.stack(total).square().mean()

    data = TensorDataset(torch.rand(32, 1, 8, 8), torch.rand(32, 3))
    _, [told] = in_a_run(Detector(nn.Conv2d(1, 1, 3)), DataLoader(data, batch_size=8))
    assert told.outcome == "not applicable"
    assert told.detail == "no prediction meets a target in the loss"


def test_the_budget():
    assert Budget().for_pictures(1.0) == 0.5
    assert Budget().for_pictures(50.0) == 1.0
    assert Budget().for_pictures(3600.0) == 2.0
