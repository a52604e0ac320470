import html
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from torch import nn

from lightning_debug import DebugSuite
from lightning_debug.cli import main
from lightning_debug.finding import Severity, worst_first
from lightning_debug.report.gallery import MOST_BYTES, gallery
from lightning_debug.report.notebook import fragment
from lightning_debug.report.page import MOST_FINDINGS, page, write
from lightning_debug.report.rendering import clean, embedded, marked, number
from lightning_debug.report.sink import HtmlReport
from lightning_debug.report.tables import MOST_ROWS, rows
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.sinks.sink import RunInfo
from tests.build import finding
from tests.report.build import bars, experiment, image, look, record, stored
from tests.runs import Program, digits, fit

VOID = ("meta", "img", "input", "br")


class Outline(HTMLParser):
    """What a browser would make of a page: its elements, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.ids, self.targets, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        if (attributes.get("href") or "").startswith("#"):
            self.targets.append(attributes["href"][1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def tags(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def three():
    """Return an error, its symptom, and a warning."""
    cause = finding(
        name="probabilities-as-logits",
        severity=Severity.ERROR,
        where="training_step",
        why="Softmax is applied twice.",
        fix="Give the loss the logits: `return self.net(x)`.",
        evidence={"low": 0.0, "high": 1.0, "maker": "softmax"},
        count=3,
    )
    symptom = finding(name="loss-not-decreasing", caused_by=cause.name)
    return worst_first([finding(), symptom, cause])


def test_elements_are_closed_and_links_lead_somewhere(three):
    outline = Outline(page(stored(findings=three)))
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(outline.targets) <= set(outline.ids)
    headings = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_nothing_is_loaded_from_elsewhere(three):
    outline = Outline(page(stored(findings=three)))
    assert outline.tags("link") == outline.tags("iframe") == []
    assert not any("src" in attributes for attributes in outline.tags("script"))
    assert all(a["src"].startswith("data:image/png;base64,") for a in outline.tags("img"))
    assert "default-src 'none'" in outline.tags("meta")[2]["content"]


def test_head(three):
    text = Outline(page(stored(findings=three))).text
    assert "1 error, 2 warnings; 1 of them explained by another" in text
    assert "Run Classifier Status completed Started 2026-01-31 09:30 UTC" in text
    assert "Duration 1 min 15 s Updates made 20" in text


def test_a_healthy_run_says_so():
    text = Outline(page(stored())).text
    assert "No warnings or errors" in text
    assert "Nothing was found." in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param("running", "running, or killed before its end", id="killed"),
        pytest.param("RuntimeError", "ended by RuntimeError", id="exception"),
        pytest.param("interrupted", "Status interrupted", id="interrupted"),
    ],
)
def test_status(status, words):
    assert words in Outline(page(stored(record=record(status=status)))).text


def test_a_finding_is_told_in_full(three):
    text = Outline(page(stored(findings=three))).text
    for words in (
        "error probabilities-as-logits at training_step ,"
        " first seen at step 12 (epoch 1), at 3 looks",
        "91 % of the units are zero for all 1024 samples.",
        "Fix: Give the loss the logits: return self.net(x)",
        "Why: Softmax is applied twice.",
        "low 0 high 1 maker softmax",
        'DebugSuite(ignore=["probabilities-as-logits"])',
        "It explains 1 more: loss-not-decreasing",
    ):
        assert words in text


def test_symptoms_are_folded_into_their_cause(three):
    text = page(stored(findings=three))
    folded = text[text.index('<details class="symptoms">') :]
    assert folded.index("<h4") < folded.index("</article>")
    assert text.count("<article") == 3
    assert text.count("<h3 id=") == 2


def test_the_plot_of_each_finding_is_in_the_data(three):
    text = page(stored(findings=three))
    found = re.search(
        r'<script type="application/json" id="run-data">(.*?)</script>', text, re.DOTALL
    )
    drawn = {chart["id"] for chart in json.loads(found[1])["evidence"]}
    assert {"finding-1-plot", "finding-2-plot", "finding-3-plot"} <= drawn
    for name in drawn:
        assert f'data-chart="{name}"' in text


def test_experiments_pictures_record_and_failures():
    failed = record(failures={"check dead-relu": "ZeroDivisionError: by zero"})
    text = Outline(page(stored(record=failed, skipped=2))).text
    for words in (
        "one or two samples by heart passed 2 samples in 5 steps",
        "8 filters net.0, step 4",
        "age 0.5 height 0.25 Strength of the gradient by column",
        "val_loss 0.25",
        "packages torch 2.8.0",
        "check dead-relu ZeroDivisionError: by zero",
        "2 lines or entries in the run folder could not be read",
    ):
        assert words in text


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"status": 3, "record": [1], "seconds": "x", "step": None}, id="other kinds"),
        pytest.param({"seconds": float("nan"), "started": 5, "failures": "no"}, id="no numbers"),
        pytest.param({"step": 10**400, "metrics": {"a": 10**400}, "looked": 3}, id="too large"),
    ],
)
def test_a_damaged_record_is_shown_as_far_as_it_goes(broken):
    bare = stored(record=broken, stats=[], experiments=[], network=None, pictures=[])
    assert Outline(page(bare)).open == []


def test_findings_are_bounded():
    many = [finding(name=f"check-{i}", places=tuple(map(str, range(100)))) for i in range(300)]
    text = page(stored(findings=many))
    assert text.count("<article") == MOST_FINDINGS
    assert "200 more are in findings.jsonl." in text


def test_findings_that_explain_each_other_are_all_shown():
    circle = [finding(name="a", caused_by="b"), finding(name="b", caused_by="a")]
    assert page(stored(findings=worst_first(circle))).count("<article") == 2


def test_pictures_are_chosen_evenly_and_fit():
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    images = [image(pixels=noise, step=step) for step in range(40)]
    few, strength = gallery([*images, bars()])
    assert sum(len(shown.source) for shown in few.shown) <= MOST_BYTES // 2
    assert few.left_out == 40 - len(few.shown) > 0
    steps = [shown.picture.step for shown in few.shown]
    assert (steps[0], steps[-1]) == (0, 39)
    assert len(steps) > 4
    assert [bar[2] for bar in strength.shown[0].bars] == [100.0, 50.0]


def test_a_picture_that_is_too_large_is_left_out():
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    (group,) = gallery([image(pixels=noise)])
    assert (group.shown, group.left_out) == ([], 1)


def test_the_longest_bars_are_kept_in_their_order():
    values = tuple(float(i % 50) for i in range(100))
    (group,) = gallery([bars(labels=tuple(map(str, range(100))), values=values)])
    kept = [int(label) for label, _, _ in group.shown[0].bars]
    assert kept == sorted(kept)
    assert min(values[i] for i in kept) >= 38.0
    assert group.shown[0].more == 100 - len(kept)


def test_rows_are_bounded_in_number_and_depth():
    deep = value = {}
    for _ in range(100):
        value["x"] = value = {}
    wide = rows({str(i): [i] * 1000 for i in range(10_000)})
    assert len(wide) == MOST_ROWS + 1
    assert wide[3].value.endswith("3, 3 and 960 more")
    assert "1 entries" in str(rows(deep))
    assert rows([1]) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(0.123456, "0.1235", id="fraction"),
        pytest.param(21450, "21,450", id="whole"),
        pytest.param(3.0, "3", id="whole float"),
        pytest.param(float("nan"), "nan", id="nan"),
        pytest.param(10**400, "1.000e+400", id="larger than any float"),
    ],
)
def test_numbers(value, words):
    assert number(value) == words


def test_text_is_cleaned_and_cut_with_a_note():
    assert clean("a\x1b[2J\x00\ud800\u202eb\n") == "a [2J   b\n"
    assert clean("x" * 10_000_000) == "x" * 2000 + " … (9998000 more characters)"


def test_code_is_marked_and_all_is_escaped():
    text = marked("`a<b` or <b>bold</b> Trainer(precision='bf16-mixed')")
    assert "<code>a&lt;b</code>" in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<code>Trainer(precision=&#39;bf16-mixed&#39;)</code>" in text


def test_embedded_data_cannot_end_the_script():
    data = {"</script>": ["<!--", float("nan"), "\u2028\ud800"]}
    text = embedded(data)
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"</script>": ["<!--", None, "  "]}


def test_written_whole_or_not_at_all(tmp_path):
    path = write(stored(folder=tmp_path))
    assert path == tmp_path / "report.html"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == page(stored(folder=tmp_path))


def test_the_sink_says_where_the_report_is(tmp_path):
    said = []
    run = RunInfo(folder=str(tmp_path), write=said.append)
    for sink in (RunFolder(), HtmlReport()):
        sink.start(run)
        sink.close([finding()], status="completed", failures={})
    assert said == [f"report: {tmp_path / 'report.html'}"]
    assert "dead-relu" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_folder_no_report():
    said = []
    sink = HtmlReport()
    sink.start(RunInfo(write=said.append))
    sink.close([], status="completed", failures={})
    assert said == []


@pytest.fixture
def killed(tmp_path):
    """Return the run folder of a run that had no time to end."""
    sink = RunFolder()
    sink.start(RunInfo(folder=str(tmp_path / "run")))
    sink.finding(finding(), new=True)
    sink.look(look(0))
    return tmp_path / "run"


def test_command_on_a_killed_run(killed, capsys):
    assert main(["report", str(killed)]) == 0
    assert capsys.readouterr().out.strip() == str(killed / "report.html")
    text = Outline((killed / "report.html").read_text(encoding="utf-8")).text
    assert "running, or killed before its end" in text
    assert "1 warning" in text


def test_command_writes_where_it_is_told(killed, tmp_path, capsys):
    assert main(["report", str(killed), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").is_file()
    assert not (killed / "report.html").exists()


def test_command_says_what_it_cannot_do(killed, tmp_path, capsys):
    assert main(["report", str(killed), "--output", str(tmp_path / "no" / "x.html")]) == 2
    assert "the report cannot be written" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is no run folder" in " ".join(capsys.readouterr().err.split())


def test_notebook(three):
    made = experiment(outcome="not applicable")
    outline = Outline(fragment("DebugSuite", three, [experiment(), made], failures={"x": "y"}))
    assert outline.open == []
    assert not outline.tags("script")
    assert outline.text.startswith("DebugSuite : 1 error, 2 warnings")
    assert "Experiments on copies of the model: 1 passed, 1 not applicable." in outline.text
    assert "Switched off after a failure of its own: x (y)." in outline.text


def test_notebook_of_a_suite_without_a_run():
    assert "no run yet" in DebugSuite()._repr_html_()
    assert "switched off (debug=False)" in DebugSuite(debug=False)._repr_html_()


def test_a_real_run_ends_with_its_report(tmp_path, capsys):
    suite = fit(
        lambda: Program(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))),
        digits(n=64),
        suite=DebugSuite(preflight=False),
        epochs=1,
        default_root_dir=tmp_path,
    )
    path = tmp_path / "lightning_debug" / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {path}"
    assert str(path) in suite._repr_html_()
    outline = Outline(path.read_text(encoding="utf-8"))
    assert "Run Program Status completed" in outline.text
    assert "Updates made 2" in outline.text


def test_titles_name_the_verdict_and_the_model(three):
    text = page(stored(findings=three))
    title = html.unescape(re.search("<title>(.*?)</title>", text)[1])
    assert title == "1 error, 2 warnings; 1 of them explained by another · Classifier"
