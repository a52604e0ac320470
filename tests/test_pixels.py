import numpy as np
import pytest

from lightning_debug.pixels import GREY, evenly, fitted, in_rows, scaled, some, tiled


def test_scaled_from_black_to_white():
    assert scaled(np.array([-1.0, 0.0, 1.0])).tolist() == [0, 128, 255]


def test_scaled_from_zero():
    assert scaled(np.array([1.0, 2.0]), from_zero=True).tolist() == [128, 255]
    assert scaled(np.zeros(2), from_zero=True).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([3.0, 3.0], [GREY, GREY], id="all alike"),
        pytest.param([np.nan, 0.0, np.inf, 1.0], [0, 0, 0, 255], id="not finite"),
        pytest.param([np.nan], [0], id="nothing finite"),
        pytest.param([-1.7e308, 1.7e308], [0, 255], id="a range too large for a number"),
    ],
)
def test_scaled_whatever_comes(values, expected):
    assert scaled(np.array(values)).tolist() == expected


def test_small_images_are_enlarged_and_set_apart():
    black = np.zeros((8, 8), dtype=np.uint8)
    canvas = tiled([[black, black], [black]])
    assert canvas.shape == (100, 100)
    assert set(np.unique(canvas[:48, :48])) == {0}
    assert set(np.unique(canvas[:, 48:52])) == {255}
    assert set(np.unique(canvas[52:, 52:])) == {255}


def test_large_images_are_made_small():
    large = np.zeros((600, 800, 3), dtype=np.uint8)
    canvas = tiled([[large] * 6, [large] * 6])
    assert canvas.shape[1] <= 512
    assert canvas.shape[0] <= 1024
    assert canvas.shape[2] == 3


def test_grey_beside_colours():
    grey, red = np.full((8, 8), 7, dtype=np.uint8), np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    canvas = tiled([[red], [grey]])
    assert canvas[0, 0].tolist() == [255, 0, 0]
    assert canvas[-1, -1].tolist() == [7, 7, 7]


def test_a_long_image_stays_within_its_room():
    image = np.zeros((3000, 2), dtype=np.uint8)
    assert fitted(image, (1024, 512)).shape[0] <= 1024


def test_evenly():
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(101, 3) == [0, 50, 100]
    assert evenly(5, 1) == [0]


def test_words_and_rows():
    assert some(8, 64, "filters") == "8 of 64 filters"
    assert some(8, 8, "filters") == "all 8 filters"
    assert in_rows([1, 2, 3], 2) == [[1, 2], [3]]
