"""What is drawn by scripts, in a real browser."""

import itertools
import math

import pytest
from torch import nn

from lightning_debug import DebugSuite
from lightning_debug.picture import Histogram, Network, Node
from lightning_debug.report.page import write
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.stored_run import read_run
from tests.build import finding
from tests.report.browser import opened, started
from tests.report.build import experiment, look, stored
from tests.runs import Program, digits, fit

HOSTILE = "<img src=x onerror='window.pwned=1'>{a|b}\x1b[2J"
SCALE = "document.querySelector('#network-drawing > g').getCTM().a"
PIXELS = "[...document.querySelectorAll(`${where} canvas`)].map(c => c.toDataURL()).join()"


def network():
    """Return two blocks, the second with a shortcut around it, and a name that is markup."""
    names = ("batch[0]", "net.0.conv", "net.0.norm", "net.1.conv", "net.1 > add", f"net.{HOSTILE}")
    roles = ("input", "module", "module", "module", "function", "module")
    nodes = tuple(
        Node(name=name, kind=name.split(".")[-1], role=role, shape=(8, 4), parameters=12)
        for name, role in zip(names, roles, strict=True)
    )
    edges = (*itertools.pairwise(names), ("net.0.norm", "net.1 > add"))
    return Network(nodes=nodes, edges=edges)


def run(folder, **changes):
    layers = {"net.0.conv": 1e-6, "net.1.conv": 1.0, HOSTILE: math.nan}
    sizes = {"net.0.conv": 1.0, "net.0.norm": 2.0}
    stats = [
        look(step, epoch=step // 5, layers={"gradient-norm": layers, "activation-rms": sizes})
        for step in range(10)
    ]
    pictures = [
        Histogram(kind=kind, place=place, step=step, low=-1.0, high=1.0, counts=(1, 5, 2))
        for kind in ("weights", "gradients")
        for place in ("net.0.conv.weight", HOSTILE)
        for step in (0, 5, 9)
    ]
    fields = {
        "folder": folder,
        "stats": stats,
        "network": network(),
        "pictures": pictures,
        "findings": [finding(name="dead-relu", where="net.0.conv", step=3)],
        "experiments": [experiment(curve=(4.0, 2.0, 1.0))],
    }
    return stored(**{**fields, **changes})


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def page(browser, report):
    with opened(browser, report) as page:
        yield page


def show_network(page):
    page.locator("#network").scroll_into_view_if_needed()
    page.wait_for_selector("#network-drawing .box")


def shown(page):
    """Return the first line of text of each box."""
    return page.eval_on_selector_all(
        "#network-drawing .box", "boxes => boxes.map(box => box.querySelector('text').textContent)"
    )


def scale(page):
    return page.evaluate(SCALE)


def drawn(page, selector):
    """Wait until a chart is drawn, and return a fingerprint of its pixels."""
    page.locator(selector).scroll_into_view_if_needed()
    page.wait_for_selector(f"{selector} canvas")
    return page.evaluate(f"where => {PIXELS}", selector)


def box(page, name):
    return page.locator(f"#network-drawing .box[aria-label^='{name}']")


def becomes_other_than(page, selector, before):
    """Wait until a chart has other pixels."""
    page.wait_for_function(f"([where, before]) => {PIXELS} !== before", arg=[selector, before])


def test_the_network_is_drawn_as_it_ran_and_coloured(page):
    show_network(page)
    assert shown(page)[:3] == ["batch[0]", "\u2212 net", "\u2212 0"]
    assert page.locator(".edge.leads").count() == 6
    conv = box(page, "net.0.conv")
    assert {"told", "grave", "band2"} <= set(conv.get_attribute("class").split())
    assert "dead-relu (warning)" in conv.text_content()
    assert "a warning" in page.inner_text("#network-legend")
    page.select_option("#network-colour", "gradient-norm")
    assert "like its neighbours" in page.inner_text("#network-legend")
    assert {"told", "grave", "band-2"} <= set(conv.get_attribute("class").split())
    assert "1e-06" in conv.text_content()
    assert "zero, or 30 times smaller" in conv.get_attribute("aria-label")


def test_zooming_by_button_and_wheel(page):
    show_network(page)
    before = scale(page)
    page.click("button[data-zoom=in]")
    assert scale(page) == pytest.approx(before * 1.5)
    page.click("button[data-zoom=out]")
    page.click("button[data-zoom=out]")
    assert scale(page) == pytest.approx(before / 1.5)
    page.click("button[data-zoom=fit]")
    page.locator("#network-drawing").hover()
    before, scrolled = scale(page), page.evaluate("scrollY")
    page.mouse.wheel(0, -50)
    page.wait_for_function("before => scrollY < before", arg=scrolled)
    assert scale(page) == before  # the page scrolls over it
    box(page, "batch").click()
    page.mouse.wheel(0, -50)
    page.wait_for_function(f"before => {SCALE} > before", arg=before * 1.01)


def test_everything_by_keyboard(page):
    show_network(page)
    page.focus("button[data-zoom=close]")
    page.keyboard.press("Enter")
    assert shown(page) == ["batch[0]", "+ net"]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert "holds" in page.inner_text("#network-panel")
    before = scale(page)
    page.keyboard.press("+")
    assert scale(page) == pytest.approx(before * 1.5)
    page.keyboard.press("Enter")
    assert "\u2212 net" in shown(page)
    assert box(page, "net").first.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert shown(page) == ["batch[0]", "+ net"]


def test_clicking_and_searching_open_what_is_closed(page):
    show_network(page)
    page.click("button[data-zoom=close]")
    box(page, "net").click()
    assert "+ 0" in shown(page)
    box(page, "batch").click()
    assert "8 \u00d7 4" in page.inner_text("#network-panel dl")
    page.fill("#network-search", "CONV")
    assert "1 of 2 found" in page.inner_text("#network-panel")
    assert page.inner_text("#network-panel h4") == "net.0.conv"
    page.press("#network-search", "Enter")
    assert page.inner_text("#network-panel h4") == "net.1.conv"
    page.fill("#network-search", "nothing like it")
    assert page.inner_text("#network-panel") == "No module has this in its name."


def test_maps_can_be_chosen_and_no_name_runs(page):
    first = drawn(page, "#map")
    page.select_option("#map-choice", "activation-rms")
    becomes_other_than(page, "#map", first)
    assert "Size of activations" in page.get_attribute("#map", "aria-label")
    page.select_option("#map-choice", "gradient-norm")
    place = page.locator("#map").bounding_box()
    for share in (0.2, 0.4, 0.5):
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] * share)
    becomes_other_than(page, "#map", first)  # a tooltip
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x]").count() == 0


def test_histograms_can_be_chosen(page):
    last = drawn(page, "#histogram")
    assert page.inner_text("#histogram-at") == "9"
    page.focus("#histogram-step")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#histogram-at") == "5"
    page.keyboard.press("Home")
    assert page.inner_text("#histogram-at") == "0"
    becomes_other_than(page, "#histogram", last)
    page.select_option("#histogram-place", index=1)
    page.select_option("#histogram-kind", "gradients")
    assert "onerror" in page.inner_text("#histogram-words")
    assert page.inner_text("#histogram-at") == "9"


def test_curves_follow_the_reader(page):
    before = drawn(page, "[data-chart=loss]")
    page.click("[data-log=loss]")
    becomes_other_than(page, "[data-chart=loss]", before)
    before = drawn(page, "[data-chart=loss]")
    page.emulate_media(color_scheme="dark")
    becomes_other_than(page, "[data-chart=loss]", before)


def test_everything_is_drawn_before_it_is_printed(page):
    undrawn = "elements => elements.filter(e => !e.querySelector('canvas')).length"
    assert page.eval_on_selector_all(".drawing", undrawn) > 0  # what is far down waits
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.eval_on_selector_all(".drawing", undrawn) == 0
    assert page.locator("#network-drawing .box").count() > 0
    experiment = page.get_attribute("[data-chart=experiment-0]", "aria-label")
    assert "lowest 1 at step 2" in experiment


def test_nothing_sticks_out_on_a_phone(browser, report):
    with opened(browser, report, width=360, height=700) as page:
        show_network(page)
        drawn(page, "#map")
        drawn(page, "#histogram")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert box(page, "batch").is_visible()


def test_five_hundred_modules_can_be_opened(browser, tmp_path):
    nodes = tuple(Node(name=f"net.{i // 50}.{i}", kind="Linear") for i in range(500))
    edges = tuple(itertools.pairwise(node.name for node in nodes))
    with opened(browser, write(run(tmp_path, network=Network(nodes=nodes, edges=edges)))) as page:
        show_network(page)
        assert page.locator("#network-drawing .box:not(.open)").count() <= 60
        page.click("button[data-zoom=open]")
        assert page.locator("#network-drawing .box:not(.open)").count() == 500
        page.click("button[data-zoom=fit]")
        assert scale(page) > 0.05  # folded into columns: a single one would be a hairline
        page.fill("#network-search", "net.7.377")
        assert "1 of 1 found" in page.inner_text("#network-panel")


def test_a_real_run_is_drawn(browser, tmp_path):
    fit(
        lambda: Program(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))),
        digits(n=64),
        suite=DebugSuite(preflight=False, sinks=[RunFolder()]),
        epochs=1,
        default_root_dir=tmp_path,
    )
    with opened(browser, write(read_run(tmp_path))) as page:
        show_network(page)
        assert {"\u2212 net", "0", "1", "2"} <= set(shown(page))
        page.fill("#network-search", "net.0")
        assert "520, of these 520 trained" in page.inner_text("#network-panel")
        assert drawn(page, "#map")
        assert drawn(page, "#histogram")
