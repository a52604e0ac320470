import math

from lightning_debug.picture import Histogram
from lightning_debug.report.histograms import MOST_TENSORS, histograms
from tests.report.build import stored


def tensor(kind="weights", place="net.0", step=0, low=-1.0, high=1.0, counts=(1, 2, 1)):
    return Histogram(kind=kind, place=place, step=step, low=low, high=high, counts=counts)


def drawn(*pictures):
    return histograms(stored(pictures=list(pictures)))


def test_the_steps_of_a_tensor_belong_together():
    (only,) = drawn(tensor(step=10, low=-2.0), tensor(step=0), tensor(step=5)).tensors
    assert only["steps"] == [0, 5, 10]
    assert only["low"] == [-1.0, -1.0, -2.0]
    assert only["text"] == "At step 10 the values of net.0 lie between -2 and 1."


def test_kinds_in_order():
    assert drawn(tensor(), tensor("gradients"), tensor(place="x")).kinds == ["weights", "gradients"]


def test_no_histograms():
    assert drawn().tensors == []


def test_what_has_no_range_is_left_out():
    assert drawn(tensor(high=math.inf), tensor(low=math.nan), tensor(counts=())).tensors == []


def test_many_tensors_are_chosen_evenly_for_each_kind():
    kinds = ("weights", "gradients", "activations")
    many = [tensor(kind, f"layer.{i}") for kind in kinds for i in range(500)]
    shown = drawn(*many)
    assert len(shown.tensors) <= MOST_TENSORS
    places = {kind: [t["place"] for t in shown.tensors if t["kind"] == kind] for kind in kinds}
    assert places["weights"] == places["gradients"] == places["activations"]
    assert places["weights"][0] == "layer.0"
    assert places["weights"][-1] == "layer.499"
    assert shown.text.startswith("Of 1500 tensors, evenly chosen: 60")


def test_many_steps_and_bins_are_bounded():
    (only,) = drawn(*(tensor(step=i, counts=(1,) * 1000) for i in range(100))).tensors
    assert len(only["steps"]) == 12
    assert len(only["counts"][0]) <= 64
    assert sum(only["counts"][0]) == 1000


def test_bins_that_are_added_up_keep_their_places():
    (only,) = drawn(tensor(low=0.0, high=1.0, counts=(1,) * 100)).tensors
    width = (only["high"][0] - only["low"][0]) / len(only["counts"][0])
    assert width == 0.02
