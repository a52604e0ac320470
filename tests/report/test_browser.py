"""The report in a real browser: nothing fails, nothing is loaded, all is within reach."""

import contextlib

import pytest

from lightning_debug.finding import Severity, worst_first
from lightning_debug.report.page import write
from lightning_debug.stored_run import read_run
from tests.build import finding
from tests.report.browser import opened, started
from tests.report.build import stored
from tests.report.test_hostile import EVIL
from tests.report.test_hostile import write as write_hostile

PHONE = 360


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


@pytest.fixture
def show(browser, tmp_path):
    """Return what opens the report of a run; whatever goes wrong on the page fails the test."""
    with contextlib.ExitStack() as stack:
        yield lambda run, **options: stack.enter_context(
            opened(browser, write(run, tmp_path / "report.html"), **options)
        )


@pytest.fixture
def run():
    """Return a run with an error, its symptom, a warning and a remark."""
    cause = finding(name="exploding-gradient", severity=Severity.ERROR, where="net.2")
    symptom = finding(
        name="loss-diverging", caused_by=cause.name, message="It is 40 times as high."
    )
    remark = finding(name="no-scheduler", severity=Severity.INFO, message="The rate is constant.")
    return stored(findings=worst_first([finding(), symptom, cause, remark]))


def visible(page):
    return [
        article.locator("h3, h4").first.text_content()
        for article in page.locator("article.finding").all()
        if not article.evaluate("(each) => each.hidden || !!each.closest('[hidden]')")
    ]


ALL = ["exploding-gradient", "loss-diverging", "dead-relu", "no-scheduler"]


def test_filter_by_words(show, run):
    page = show(run)
    assert visible(page) == ALL
    page.get_by_label("Filter").fill("NET.2 exploding")
    assert visible(page) == ["exploding-gradient"]
    assert page.get_by_role("status").first.text_content() == "1 of 4 findings"
    # A symptom keeps its cause, and is unfolded.
    page.get_by_label("Filter").fill("40 times")
    assert visible(page) == ["exploding-gradient", "loss-diverging"]
    assert page.get_by_text("It is 40 times as high.").is_visible()
    page.get_by_label("Filter").fill("")
    assert visible(page) == ALL


def test_toggle_severities_with_the_keyboard(show, run):
    page = show(run)
    page.get_by_label("Filter").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    # The error stays, as its symptom is a warning.
    assert visible(page) == ALL
    assert page.get_by_role("status").first.text_content() == "3 of 4 findings"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert visible(page) == ["no-scheduler"]


def test_everything_is_reached_with_the_keyboard(show, run):
    page = show(run)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    page.get_by_label("Filter").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.symptoms > summary')"):
            break
    assert not page.get_by_text("It is 40 times as high.").is_visible()
    page.keyboard.press("Enter")
    assert page.get_by_text("It is 40 times as high.").is_visible()


def test_a_link_in_the_checklist_unfolds_the_finding(show, run):
    page = show(run)
    page.locator("#checklist").get_by_role("link", name="loss-diverging").click()
    page.get_by_text("It is 40 times as high.").wait_for(state="visible", timeout=2000)


CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("main *, header *, nav *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(paper(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.className}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_all_fits_and_stands_out_from_the_paper(show, run, scheme):
    page = show(run, width=PHONE, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.evaluate(CONTRAST) == []


def test_in_print_all_is_unfolded(show, run):
    page = show(run, scheme="dark")
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.get_by_text("It is 40 times as high.").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not page.get_by_text("It is 40 times as high.").is_visible()


def test_without_scripts_all_findings_are_readable(show, run):
    page = show(run, scripts=False)
    assert page.locator("article.finding").count() == 4
    assert not page.locator("#filter").is_visible()
    page.locator(".symptoms > summary").click()
    assert page.get_by_text("It is 40 times as high.").is_visible()


def test_hostile_texts_do_nothing(show, tmp_path):
    page = show(read_run(write_hostile(tmp_path / "run", EVIL)), width=PHONE)
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
