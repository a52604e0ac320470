import itertools
import math

import pytest

from lightning_debug.finding import Severity
from lightning_debug.picture import Network, Node
from lightning_debug.report.network import MOST_NODES, drawing
from tests.build import finding
from tests.report.build import look, stored


def chain(*names, role="module"):
    nodes = tuple(Node(name=name, kind="Linear", role=role, shape=(8, 4)) for name in names)
    return Network(nodes=nodes, edges=tuple(itertools.pairwise(names)))


def drawn(network, **changes):
    return drawing(stored(network=network, **changes))


def colours(metric, **numbers):
    """Return what is written on the boxes, and their bands."""
    names = list(numbers)
    looks = [look(0, layers={metric: {"other": 1.0}}), look(1, layers={metric: numbers})]
    nodes = drawn(chain(*names), stats=looks).data["nodes"]
    return [tuple(node["colours"][metric]) for node in nodes]


def test_no_network():
    assert drawing(stored(network=None)) is None
    assert drawing(stored(network=Network())) is None


def test_boxes_lie_in_the_modules_that_hold_them():
    data = drawn(chain("stem", "body.0.conv", "body.0.norm", "body.1")).data
    assert [group["name"] for group in data["groups"]] == ["body", "body.0"]
    assert [group["parent"] for group in data["groups"]] == [-1, 0]
    assert [group["inside"] for group in data["groups"]] == [3, 2]
    assert [node["parent"] for node in data["nodes"]] == [-1, 1, 1, 0]
    assert [node["label"] for node in data["nodes"]] == ["stem", "conv", "norm", "1"]
    assert data["edges"] == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        pytest.param("body.0 > add", 1, id="in the module that calls it"),
        pytest.param("body.0.conv > relu", 1, id="beside the leaf that it follows"),
        pytest.param("training_step > add", -1, id="outside of all modules"),
    ],
)
def test_a_function_lies_where_it_is_called(name, parent):
    conv = Node(name="body.0.conv", kind="Conv2d")
    function = Node(name=name, kind="add", role="function")
    assert drawn(Network(nodes=(conv, function))).data["nodes"][1]["parent"] == parent


def residual(blocks):
    """Return a network of blocks, and after each the sum that the network writes around it."""
    nodes, edges, last = [Node(name="net.stem", kind="Linear")], [], "net.stem"
    for block in range(blocks):
        inner = Node(name=f"net.blocks.{block}.linear", kind="Linear")
        total = Node(name=f"net > add {block}", kind="add", role="function")
        edges += [(last, inner.name), (inner.name, total.name), (last, total.name)]
        nodes, last = [*nodes, inner, total], total.name
    return Network(nodes=tuple(nodes), edges=tuple(edges))


@pytest.mark.parametrize(("blocks", "home"), [(8, "net"), (60, "net.blocks.50")])
def test_the_sums_of_a_long_residual_network_lie_in_the_blocks_that_they_end(blocks, home):
    data = drawn(residual(blocks)).data
    boxes = {node["name"]: node for node in data["nodes"]}
    box = boxes[f"net > add {min(50, blocks - 1)}"]
    assert data["groups"][box["parent"]]["name"] == home


def test_an_input_with_dots_in_its_name_is_one_box():
    network = Network(nodes=(Node(name="batch['a.b']", kind="input", role="input"),))
    assert drawn(network).data["groups"] == []


def test_a_long_list_is_drawn_in_stretches():
    data = drawn(chain(*(f"net.{i}" for i in range(500)))).data
    labels = [group["label"] for group in data["groups"]]
    assert labels[:3] == ["net", "0 \u2026 19", "20 \u2026 39"]
    children = [group["parent"] for group in data["groups"]] + [n["parent"] for n in data["nodes"]]
    assert max(children.count(group) for group in range(len(labels))) <= 40


@pytest.mark.parametrize("count", [5, 60, 500, 900])
def test_at_first_at_most_sixty_boxes_are_seen(count):
    data = drawn(chain(*(f"net.{i // 50}.{i // 10}.{i}" for i in range(count)))).data
    opened = {-1, *data["open"]}
    parents = [node["parent"] for node in data["nodes"]]
    parents += [g["parent"] for i, g in enumerate(data["groups"]) if i not in opened]
    assert 0 < sum(parent in opened for parent in parents) <= 60
    assert all(data["groups"][group]["parent"] in opened for group in data["open"])


def test_a_small_network_is_open():
    assert drawn(chain("a.b.c", "a.b.d")).data["open"] == [0, 1]


def test_a_large_network_is_bounded_and_says_so():
    result = drawn(chain(*(f"net.{i}" for i in range(3000))))
    assert len(result.data["nodes"]) == len(result.rows) == MOST_NODES
    assert "2000 more boxes are not drawn." in result.text
    assert max(max(edge) for edge in result.data["edges"]) < MOST_NODES


def test_its_size_in_words():
    nodes = (
        Node(name="a", kind="Linear", parameters=1200, trainable=1000),
        Node(name="b", kind="Linear", parameters=34),
    )
    assert drawn(Network(nodes=nodes, step=3)).text == (
        "2 modules that ran, 1,234 parameters in them, 1,000 of these trained; as executed at"
        " step 3."
    )


def test_the_summary_has_shapes():
    nodes = (Node(name="a", kind="Linear", input_shape=(8, 3), shape=(8, 4), parameters=16),)
    (row,) = drawn(Network(nodes=nodes)).rows
    assert (row["input"], row["shape"], row["parameters"]) == ("8 \u00d7 3", "8 \u00d7 4", 16)


def test_a_gradient_is_judged_by_the_layers_around_it():
    painted = colours("gradient-norm", a=1.0, b=1.0, c=1e-3, d=2.0, e=0.0, f=math.nan)
    assert painted == [("1", 0), ("1", 0), ("0.001", -2), ("2", 0), ("0", -2), ("nan", 2)]


def test_a_gradient_is_judged_by_its_own_kind():
    kinds = ("Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d", "Linear")
    nodes = tuple(Node(name=str(i), kind=kind) for i, kind in enumerate(kinds))
    numbers = {"0": 1.0, "1": 0.05, "2": 1.0, "3": 0.05, "4": 20.0}
    stats = [look(0, layers={"gradient-norm": numbers})]
    painted = drawn(Network(nodes=nodes), stats=stats).data["nodes"]
    assert [node["colours"]["gradient-norm"][1] for node in painted] == [0, 0, 0, 0, 0]


def test_gradients_that_are_all_zero_are_no_usual_ones():
    assert colours("gradient-norm", a=0.0, b=0.0) == [("0", -2), ("0", -2)]


@pytest.mark.parametrize(
    ("metric", "value", "band"),
    [
        ("update-ratio", 1e-3, 0),
        ("update-ratio", 1e-6, -2),
        ("update-ratio", 0.5, 2),
        ("activation-rms", 1.0, 0),
        ("activation-rms", 1e5, 2),
        ("dead-share", 0.0, 0),
        ("dead-share", 0.3, 1),
        ("dead-share", 1.0, 2),
    ],
)
def test_other_numbers_are_judged_by_themselves(metric, value, band):
    ((_, painted),) = colours(metric, a=value)
    assert painted == band


def test_every_band_has_a_word():
    for colouring in drawn(chain("a"), stats=[look(0)]).colourings:
        bands = {colouring.band(value) for value in (0.0, 1e-5, 0.02, 0.3, 30.0, 1e9, math.nan)}
        assert colouring.key == "findings" or bands <= set(colouring.words)


def test_what_has_no_box_of_its_own_is_shown_on_the_one_around_it():
    numbers = {"attention.out": 9.0, "other > relu": 5.0, "other": 1.0}
    stats = [look(0, layers={"activation-rms": numbers})]
    nodes = drawn(chain("attention", "other"), stats=stats).data["nodes"]
    assert [node["colours"]["activation-rms"][0] for node in nodes] == ["9", "1"]


def test_only_what_was_measured_can_be_chosen():
    keys = [c.key for c in drawn(chain("a"), stats=[]).colourings]
    assert keys == ["findings"]


def test_findings_are_the_first_colouring_where_there_are_some():
    keys = [c.key for c in drawn(chain("a"), findings=[finding(where="a")]).colourings]
    assert keys[0] == "findings"
    metrics = [look(0, layers={"gradient-norm": {"a": 1.0}})]
    keys = [c.key for c in drawn(chain("a"), stats=metrics).colourings]
    assert keys == ["gradient-norm", "findings"]


def test_findings_are_shown_at_their_places():
    told = [
        finding(name="dead-relu", severity=Severity.ERROR, where="net.0"),
        finding(name="frozen", severity=Severity.WARNING, where="", places=("net.1.weight",)),
        finding(name="scale", severity=Severity.INFO, where="net"),
        finding(name="seed", where="random numbers"),
    ]
    data = drawn(chain("net.0", "net.1"), findings=told).data
    assert [n["findings"] for n in data["nodes"]] == [["dead-relu (error)"], ["frozen (warning)"]]
    assert [n["colours"]["findings"] for n in data["nodes"]] == [(None, 3), (None, 2)]
    assert [(g["findings"], g["band"]) for g in data["groups"]] == [(["scale (info)"], 1)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("." * 1_000_000, id="a million dots"),
        pytest.param("a." * 5000 + "b", id="deeper than any network"),
        pytest.param("<script>alert(1)</script>\x1b[2J\ud800", id="markup and controls"),
        pytest.param("x" * 1_000_000, id="long"),
        pytest.param("", id="none"),
    ],
)
def test_a_hostile_name_is_bounded(name):
    result = drawn(chain(name, "b"), findings=[finding(where=name + ".weight")])
    (node, _) = result.data["nodes"]
    assert len(node["name"]) < 200
    assert "\x1b" not in node["name"]
    assert sum(len(group["label"]) for group in result.data["groups"]) < 2000
