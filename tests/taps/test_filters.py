import numpy as np
import torch
from torch import nn

from lightning_debug.picture import Image
from lightning_debug.taps.filters import filters, first_convolution
from tests.drawn import drawn
from tests.runs import Program, digits


def convolution(channels, count=5, size=3):
    torch.manual_seed(0)
    return nn.Conv2d(channels, count, size)


def test_the_first_convolution_that_sees_more_than_a_pixel():
    net = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3))
    assert first_convolution(net) == ("2", net[2])
    assert first_convolution(nn.Linear(2, 2)) is None


def test_grey_filters():
    image = filters("net.0", convolution(1), step=1200)
    assert image.caption == (
        "all 5 filters of net.0 (Conv2d, 3x3), after 1200 updates; each is scaled on its own,"
        " light is large"
    )
    assert image.pixels.shape == (48, 5 * 48 + 4 * 4)
    assert (image.pixels.min(), image.pixels.max()) == (0, 255)


def test_filters_of_colours_are_in_colours():
    layer = convolution(3)
    image = filters("net.0", layer, step=0)
    assert image.pixels.ndim == 3
    corner = layer.weight[0].detach().movedim(0, -1).numpy()
    share = (corner - corner.min()) / (corner.max() - corner.min())
    assert np.abs(image.pixels[0, 0] - 255 * share[0, 0]).max() < 1.0
    assert "red, green and blue" in image.caption


def test_many_filters_of_many_channels():
    image = filters("net.0", convolution(16, count=200), step=0)
    assert image.caption.startswith("64 of 200 filters of net.0")
    assert image.caption.endswith("the mean over what it takes")
    assert image.pixels.shape[1] <= 512


def test_they_are_drawn_at_the_start_and_at_the_end():
    def cnn():
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
        return Program(net)

    found = [p for p in drawn(cnn, digits(flat=False, n=64), steps=2) if isinstance(p, Image)]
    assert [(p.kind, p.place, p.step) for p in found] == [
        ("filters", "net.0", 0),
        ("filters", "net.0", 2),
    ]


def test_weights_that_are_not_there_yet():
    assert filters("net.0", nn.LazyConv2d(4, 3), step=0) is None
