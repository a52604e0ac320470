import json
import math
import re

import pytest

from lightning_debug.report import rendering
from lightning_debug.report.charts import figures
from lightning_debug.report.rendering import HERE, embedded
from tests.build import finding
from tests.report.build import experiment, histogram, look, network, stored

HOSTILE = "</script><script>window.pwned = 1</script>\x1b[2J\u2028\ud800'\""

PAGE = """
{%- import "figures.html.j2" as draw -%}
{{ draw.network(figures) }}{{ draw.maps(figures) }}{{ draw.curves(figures) }}
{{- draw.histograms(figures) }}{{ draw.scripts(figures) }}{{ draw.styles() }}
"""


@pytest.fixture
def page():
    """Return what is put into a page for a run."""
    template = rendering._environment().from_string(PAGE)
    return lambda run: template.render(figures=figures(run))


def test_a_run_with_nothing_in_it_says_so(page):
    text = page(stored(stats=[], network=None, pictures=[], experiments=[]))
    for sentence in (
        "The network was not recorded in this run.",
        "No look measured the layers.",
        "No curve was recorded.",
        "No histograms were recorded.",
    ):
        assert sentence in text


def test_every_drawing_is_also_in_words(page):
    text = page(stored())
    assert text.count('class="drawing') == 7  # five curves, the map, the histogram
    assert "At step 18 the largest is" in text
    assert "lowest 0.1 at step 19" in text
    assert '<th scope="row">net.0</th>' in text


def test_marks_are_listed_with_their_numbers(page):
    text = page(stored(findings=[finding(name="dead-relu", step=12)]))
    assert "<li>step 12: dead-relu</li>" in text


def test_plots_of_evidence_can_be_added():
    result = figures(stored())
    result.data["evidence"].append({"id": "finding-1"})
    assert [chart["id"] for chart in result.data["evidence"]] == ["experiment-0", "finding-1"]
    assert result.experiments == {0: "experiment-0"}


def test_the_data_is_strict_json():
    numbers = {"gradient-norm": {"a": math.nan, "b": math.inf}}
    run = stored(stats=[look(0, layers=numbers, losses=((0, math.nan),))])
    assert json.loads(json.dumps(figures(run).data, allow_nan=False))["maps"]


def test_hostile_names_stay_text(page):
    metrics = {"gradient-norm": {HOSTILE: 1.0}}
    run = stored(
        findings=[finding(name=HOSTILE, where=HOSTILE)],
        stats=[look(0, layers=metrics, scalars={f"learning-rate/{HOSTILE}": 0.1})],
        experiments=[experiment(name=HOSTILE)],
        network=network(HOSTILE, HOSTILE),
    )
    text = page(run)
    assert "<script>window" not in text
    assert "\x1b" not in text
    assert text.encode().count(b"</script>") == 5


def test_long_texts_do_not_make_a_long_page():
    long = "x" * 1_000_000
    run = stored(
        findings=[finding(name=long, where=long)],
        stats=[look(0, layers={"gradient-norm": {long: 1.0}})],
        network=network(long),
    )
    assert len(embedded(figures(run).data)) < 20_000


def test_a_large_run_stays_small():
    names = [f"layer.{i}" for i in range(200)]
    values = dict.fromkeys(names, 1.0)
    metrics = ("gradient-norm", "update-ratio", "activation-rms", "activation-spread", "dead-share")
    looks = [
        look(step, layers=dict.fromkeys(metrics, values), losses=((step, 1.0),))
        for step in range(400)
    ]
    run = stored(stats=looks, network=network(*("Linear",) * 200), pictures=[histogram()] * 2000)
    assert len(embedded(figures(run).data)) < 500_000


def test_vendored_libraries_carry_their_licences():
    static = HERE / "static"
    banner = (static / "libraries.min.js").read_text(encoding="utf-8").splitlines()[0]
    licences = (static / "LICENSES.txt").read_text(encoding="utf-8")
    readme = (static / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"([@\w/-]+) (\d+\.\d+\.\d+)", banner)
    assert [name for name, _ in named] == [
        "echarts", "zrender", "@dagrejs/dagre", "d3-zoom", "d3-selection",
    ]  # fmt: skip
    for name, version in named:
        assert f"{name} {version} (" in licences
    assert banner in readme


def test_nothing_is_evaluated_or_loaded():
    for script in (HERE / "static").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        forbidden = r"\beval\(|new Function|XMLHttpRequest|\bfetch\(|importScripts|innerHTML ?= ?\w"
        found = re.findall(forbidden, text)
        assert not found or script.name == "libraries.min.js", (script.name, found)
        assert "new Function" not in found
        assert "eval(" not in found
