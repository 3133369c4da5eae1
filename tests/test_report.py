"""hwnas/report*.py: a run is shown as it was, on a page that holds nothing but itself and in the terminal."""

import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from hwnas.report_data import (
    Beside,
    Comparison,
    CostBudget,
    InPrecision,
    Interval,
    Known,
    LayerShare,
    Measured,
    OnDevice,
    Operator,
    Point,
    Profiled,
    PublishedBaseline,
    PublishedNetwork,
    Report,
)
from hwnas.report_flame import COLOURS, Part, flame
from hwnas.report_html import render_html
from hwnas.report_plot import Scale, course_figures
from hwnas.report_text import render_text
from hwnas.report_words import (
    budget_line,
    confidence,
    cost,
    cost_name,
    count,
    duration,
    flat,
    headline,
    labels,
    percent,
    plain,
    quality_rows,
    share,
    share_line,
    short_block,
    signed,
    significant,
)

NAN = math.nan
BLOCK = (
    "expand = conv2d.float32 1x8x20x20 out=32 act=relu (in0); depthwise = conv2d.float32 1x32x20x20 out=32 k=5 s=2 g=32 act=relu (expand); "
    "project = conv2d.float32 1x32x10x10 out=8 (depthwise)"
)
POINTS = (Point(70, 0.05, True), Point(80, 0.1, True), Point(90, 0.12, True), Point(60, 0.15, False), Point(65, 0.07, False))


def network(role="candidate", *, measured_ms=0.0954, upper_bound_ms=0.0978, verdict="within", chosen=False, **changes):
    values = {
        "predicted_ms": 0.098,
        "p10_ms": 0.09,
        "p90_ms": 0.11,
        "visits": 48,
        "validation_accuracy_pct": 80.0,
        "test_accuracy_pct": Interval(81.25, 79.94, 82.51, 0.95),
        "macs": 1_484_112,
        "params": 75_312,
    }
    return Measured(role=role, measured_ms=measured_ms, upper_bound_ms=upper_bound_ms, verdict=verdict, chosen=chosen, **(values | changes))


BUDGETS = (CostBudget("macs", 800e3, 157_824, 1_484_112, 610_304), CostBudget("memory", 65_536, 640, 92_160, None))


def comparison(low, value, high, baseline="random"):
    return Comparison(baseline, 320, Interval(value, low, high, 0.95), measured_ms=0.0961, chosen_ms=0.0954)


QUALITY = {"calibrated": {"networks": 24, "mape": 0.0213, "within_5pct": 0.9583, "kendall": 0.931}, "macs_line": {"networks": 24, "mape": 0.112}}
REPORT = Report(
    title="runs/digits",
    space="ofa_mini",
    data="cluttered digits",
    device="local",
    conditions="local/onnxruntime-1.32.0-1thread",
    budget_ms=0.1,
    statistic="p50",
    space_min_ms=0.04,
    space_max_ms=0.25,
    latency_origin="predicted",
    points=POINTS,
    measured=(network(), network(chosen=True), network("random", measured_ms=0.0961), network("uniform", upper_bound_ms=None, verdict="inconclusive")),
    layers=(LayerShare("stem", BLOCK, 900, 80, 0.06, 0.6), LayerShare("head", "identity", 0, 0, 0.0, 0.0), LayerShare("tail", BLOCK, 100, 20, 0.03, 0.3)),
    comparisons=(comparison(0.6, 1.9, 3.2), comparison(-0.3, 0.4, 1.1, "uniform")),
    architecture={"resolution": 40, "stem.kernel": 5, "stem.expand": 3, "head.kernel": 3},
    certificate={"verdict": "within", "confidence": 0.99, "visits": 48, "system": {"governor": "performance", "cores": [0, 1]}},
    quality=QUALITY,
    commands=("hwnas search runs/digits --latency '<= 0.1 ms p50'", "hwnas verify runs/digits"),
    seconds={"train": 272.4, "verify": 60.2},
    versions={"hwnas": "0.1.0", "torch": "2.15.0"},
)
NOTHING = replace(
    REPORT, points=(), measured=(), layers=(), comparisons=(), architecture={}, certificate=None, quality={}, commands=(), seconds={}, versions={}
)
OPERATORS = (
    Operator("stem", "stem/0.conv_nchwc", "convolution 3 x 3", 0.5),
    Operator("stem", "ReorderOutput", "ReorderOutput", 0.1),
    Operator("tail", "tail/depthwise", "depthwise 5 x 5", 0.15),
    Operator("tail", "tail/project", "convolution 3 x 3", 0.25),
)
#: With every part that a run may have.
FULL = replace(
    REPORT,
    budgets=BUDGETS,
    trace=tuple({"number": i, "evaluations": 10 * i, "best": 60.0 + i, "values": {"reward": 0.5 + i / 10, "entropy, nats": 9.0 - i}} for i in range(4)),
    best_so_far={"search": ((1.0, 60.0), (4.0, 75.5), (150.0, 75.5)), "random": ((1.0, 61.0), (90.0, 73.0), (150.0, 73.0))},
    beside=(Beside("mobilenet_v3_small", 67.668, "ImageNet, as published", 0.0912, 0.0934, "within", 57e6, None),),
    published_said="mobilenet_v3_small took 0.0912 ms in the same window (within), 67.67 % top-1 as published on ImageNet",
    known=(Known(0.092, 0.09), Known(0.1, 0.102), Known(0.11, 0.1)),
    margin=1.04,
    margin_level=0.9,
    devices=(
        OnDevice("local/onnxruntime-1.32.0-1thread", 0.1, "p50", 0.098, 0.0954, 0.0978, "within", "measured"),
        OnDevice("phone/onnxruntime-1.32.0-4threads", 3.0, "p90", 2.5, None, None, "predicted", "predicted", "it was not named with --also"),
    ),
    precisions=(
        InPrecision("fp32", 81.25, 4000, 0.0954, None, 48, 301_000, "as measured by verify"),
        InPrecision("fp16", about="not measured: hwnas export digits --to FOLDER --precision fp16"),
        InPrecision("int8_u8s8", 80.5, 4000, 0.0716, 0.0954, 33, 92_000, "by export, both files in one window"),
    ),
    profiled=Profiled("local/onnxruntime-1.32.0-1thread", 50, OPERATORS),
    setting={"device": "local", "threads": 1, "system": {"governor": "performance"}},
    seeds={"train": 0, "search": 7},
    hashes={"chosen file": "ab" * 32},
)
SIMULATED = replace(REPORT, latency_origin="simulated")
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """A page as a list of (tag, attributes), its text, and the content of its script and style; refuses tags that do not nest."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.pieces, self.raw = [], [], [], {"script": [], "style": []}
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} occurs twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.raw[self.open[-1]].append(data) if self.open and self.open[-1] in self.raw else self.pieces.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.pieces))

    def of_class(self, name):
        return [attributes for _, attributes in self.tags if name in attributes.get("class", "").split()]


def section(source, name):
    return source.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def terminal(report, width=100):
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115, PTH123
    with console.file:
        console.print(render_text(report))
    return console.export_text()


def test_the_headline_says_accuracy_latency_bound_and_budget_with_unit_statistic_and_origin():
    sentence = "81.2 % test accuracy at 0.0954 ms p50 measured (upper bound 0.0978 ms at 99 %), budget 0.100 ms."
    assert headline(REPORT) == sentence
    assert sentence in Page(render_html(REPORT)).text
    assert terminal(REPORT).rstrip().splitlines()[-1] == sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": None},
        {"certificate": {"verdict": "over"}},
        {"measured": (network(chosen=True, verdict="inconclusive"),)},
        {"measured": (network(),)},
    ],
)
def test_without_certificate_or_verdict_nothing_is_called_certified(changes):
    report = replace(REPORT, **changes)
    sentence = "No candidate was certified to keep the budget of 0.100 ms p50."
    assert headline(report) == sentence
    assert sentence in Page(render_html(report)).text and terminal(report).rstrip().endswith(sentence)


def test_a_network_that_is_not_certified_is_shown_with_its_verdict():
    report = replace(REPORT, certificate=None, measured=(network(chosen=True, verdict="over", upper_bound_ms=0.104, test_accuracy_pct=None),))
    sentence = "The network at hand: 80.0 % validation accuracy at 0.0954 ms p50 measured (upper bound 0.104 ms), verdict: over."
    assert sentence in Page(render_html(report)).text and sentence in " ".join(terminal(report).split())


def test_latencies_get_as_many_digits_as_tell_the_side_of_the_budget():
    near = replace(REPORT, measured=(network(chosen=True, measured_ms=0.0996, upper_bound_ms=0.1004, verdict="inconclusive"),))
    assert headline(near) == "No candidate was certified to keep the budget of 0.1000 ms p50."
    assert "at 0.09960 ms p50 measured (upper bound 0.1004 ms" in Page(render_html(near)).text
    nearer = replace(REPORT, measured=(network(chosen=True, measured_ms=0.0996, upper_bound_ms=0.10004, verdict="inconclusive"),))
    assert "upper bound 0.10004 ms" in Page(render_html(nearer)).text and "0.10000 ms" in headline(nearer)
    equal = replace(REPORT, measured=(network(chosen=True, measured_ms=0.0954, upper_bound_ms=0.1),))
    assert "(upper bound 0.100 ms at 99 %), budget 0.100 ms." in headline(equal)


PUBLISHED = PublishedNetwork("mobilenet_v3_small", "torchvision 0.29.1", 67.668, 224, 0.0912, 0.09, 0.0934, 0.95, 57e6, 2_542_856, "2026-11-25")


@pytest.mark.parametrize(
    ("baseline", "sentence", "result"),
    [
        (
            PublishedBaseline(12, PUBLISHED, PUBLISHED, "hwnas bench --zoo"),
            "Best of 12 published networks within 0.100 ms p50: mobilenet_v3_small, 0.0912 ms p50 measured (95 % interval 0.0900 to 0.0934) at 224 pixels, "
            "67.7 % top-1 as published on ImageNet; it was not trained on this data.",
            "best within the budget",
        ),
        (
            PublishedBaseline(12, None, replace(PUBLISHED, measured_ms=1.86, low_ms=None), "hwnas bench --zoo"),
            "None of 12 published networks is within 0.100 ms p50: the fastest, mobilenet_v3_small, takes 1.86 ms p50 measured at 224 pixels.",
            "fastest, over the budget",
        ),
        (
            PublishedBaseline(0, None, None, "hwnas bench --zoo --device localhost"),
            "No published network was measured under these conditions, so none is a baseline; measure them with: hwnas bench --zoo --device localhost",
            None,
        ),
        (
            PublishedBaseline(3, None, None, "hwnas bench --zoo --budget x"),
            "None of 3 published networks has a p50 under these conditions; measure it with: hwnas bench --zoo --budget x",
            None,
        ),
    ],
)
def test_the_best_published_network_within_the_budget_is_named_or_how_to_measure_it(baseline, sentence, result):
    report = replace(REPORT, published=baseline)
    page = Page(render_html(report)).text
    assert sentence in page and sentence in " ".join(terminal(report).split())
    assert (result is not None and result in page) or (result is None and "published network measured" not in page)
    assert "published network" not in Page(render_html(REPORT)).text


OUTCOMES = [
    (0.6, 1.9, 3.2, True, "The search won against random search: +1.9 points of test accuracy, 95 % interval +0.6 to +3.2;"),
    (0.04, 1.0, 2.0, True, "95 % interval +0.04 to +2.0;"),
    (0.0, 1.0, 2.0, False, "The search did not win against random search: +1.0 points of test accuracy, 95 % interval +0.0 to +2.0 – the interval includes 0;"),
    (-0.3, 0.4, 1.1, False, "95 % interval −0.3 to +1.1 – the interval includes 0;"),
    (-2.1, -1.2, -0.2, False, "95 % interval −2.1 to −0.2 – the baseline is better;"),
    (NAN, 1.0, NAN, False, "– the difference is unknown;"),
]


@pytest.mark.parametrize(("low", "value", "high", "won", "words"), OUTCOMES)
def test_the_page_says_that_the_search_did_not_win_exactly_when_it_did_not(low, value, high, won, words):
    report = replace(REPORT, comparisons=(comparison(low, value, high),))
    for text in (Page(render_html(report)).text, " ".join(terminal(report).split())):
        assert words in text and "measured 0.0954 ms against 0.0961 ms p50." in text
        assert ("The search won against" in text) is won
        assert ("The search did not win against" in text) is not won


def test_without_comparisons_nobody_wins():
    report = replace(REPORT, comparisons=())
    for text in (Page(render_html(report)).text, terminal(report)):
        assert "The search was not compared with a baseline." in text
        assert "won against" not in text and "did not win" not in text


def test_the_page_refers_to_nothing_outside_itself():
    source = render_html(FULL)
    page = Page(source)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "use", "image"} & {tag for tag, _ in page.tags}
    ids = {attributes.get("id") for _, attributes in page.tags}
    for tag, attributes in page.tags:
        assert tag != "a" or (attributes["href"][0] == "#" and attributes.pop("href")[1:] in ids)
        assert not {"src", "href", "xlink:href", "srcset", "action", "background", "data", "style"} & attributes.keys()
    assert "url(" not in source
    assert "://" not in source and "@import" not in source
    assert not re.search(r"fetch|XMLHttpRequest|WebSocket|import\b|sendBeacon|eval|innerHTML", "".join(page.raw["script"]))


def test_the_page_allows_its_own_script_and_no_other():
    page = Page(render_html(REPORT))
    (policy,) = (attributes["content"] for tag, attributes in page.tags if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256("".join(page.raw["script"]).encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert [tag for tag, _ in page.tags].count("script") == 1


HOSTILE = "\"><script>alert('x')</script><img src=http://evil onerror=alert(1)>{{ 7 * 7 }}[red]\x1b]0;title\x07\u202e\ud800\n"


def hostile():
    network_ = replace(network(chosen=True), role=HOSTILE, verdict=HOSTILE)
    device = replace(FULL.devices[1], where=HOSTILE, statistic=HOSTILE, verdict=HOSTILE, reason=HOSTILE)
    return replace(
        FULL,
        trace=tuple({**point, "values": {HOSTILE: 1.0 + point["number"]}} for point in FULL.trace),
        best_so_far={HOSTILE: FULL.best_so_far["search"]},
        beside=(replace(FULL.beside[0], name=HOSTILE, accuracy_of=HOSTILE, verdict=HOSTILE),),
        published_said=HOSTILE,
        devices=(device,),
        precisions=(InPrecision(HOSTILE, about=HOSTILE),),
        profiled=Profiled(HOSTILE, 50, (Operator(HOSTILE, HOSTILE, HOSTILE, 1.0),), HOSTILE),
        setting={HOSTILE: HOSTILE},
        seeds={HOSTILE: 0},
        hashes={HOSTILE: HOSTILE},
        title=HOSTILE,
        space=HOSTILE,
        data=HOSTILE,
        device=HOSTILE,
        conditions=HOSTILE,
        statistic=HOSTILE,
        measured=(network_, replace(network_, chosen=False)),
        layers=(LayerShare(HOSTILE, HOSTILE, 1, 1, 0.1, 1.0),),
        comparisons=(comparison(1, 2, 3, HOSTILE),),
        architecture={HOSTILE: HOSTILE},
        certificate={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}, "confidence": HOSTILE, "verdict": HOSTILE, "origin": HOSTILE},
        quality={HOSTILE: {HOSTILE: HOSTILE, "mape": HOSTILE}},
        commands=(HOSTILE,),
        budgets=(CostBudget(HOSTILE, 1.0, NAN, 1.0, None),),
        seconds={HOSTILE: 1.0},
        versions={HOSTILE: HOSTILE},
    )


def test_hostile_strings_stay_text_on_the_page():
    source, benign = render_html(hostile()), Page(render_html(FULL))
    page = Page(source)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in benign.tags}
    assert {name for _, attributes in page.tags for name in attributes} <= {name for _, attributes in benign.tags for name in attributes}
    assert page.raw["script"] == benign.raw["script"] and page.raw["style"] == benign.raw["style"]
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800-\udfff]", source)
    assert "49" not in page.text and "{{ 7 * 7 }}" in page.text
    classes = {name for _, attributes in page.tags for name in attributes.get("class", "").split()}
    assert classes <= {name for _, attributes in benign.tags for name in attributes.get("class", "").split()}
    shown = plain(HOSTILE).strip()
    # title, heading, space, data, device, conditions twice, command, version, certificate, ...: nothing was dropped
    assert page.text.count(shown) > 25


def test_hostile_strings_reach_the_terminal_as_text_alone():
    text = terminal(hostile())
    assert "[red]" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", text)
    assert max(map(len, text.splitlines())) <= 100


def test_budgets_beside_the_latency_are_shown_with_what_the_chosen_network_takes():
    sentences = ("at most 800 k, the chosen network has 610 k; the space: 158 k to 1.48 M", "at most 65.5 kB; the space: 640 B to 92.2 kB")
    report = replace(REPORT, budgets=BUDGETS)
    page, text = Page(render_html(report)).text.replace("\xa0", " "), terminal(report)
    for name, sentence in zip(("MACs", "peak memory"), sentences, strict=True):
        assert f"{name} {sentence}" in text
        assert sentence in page and f">{name}</dt>" in render_html(report)
    assert "at most" not in terminal(REPORT) and "at most" not in Page(render_html(REPORT)).text


def test_one_line_tells_what_a_space_offers_under_a_budget():
    facts = {"metric": "memory", "min": 24_576.0, "max": 92_160.0, "limit": 45e3, "exact": True, "share": {"value": 0.421, "samples": 65_536}}
    assert budget_line(facts) == "peak memory 24.6 kB ... 92.2 kB; budget 45.0 kB, 42 % of the space within it"
    sampled = {**facts, "exact": False, "share": {"value": 0.00321, "samples": 2_048}}
    assert budget_line(sampled) == "peak memory 24.6 kB ... 92.2 kB (of 2,048 random architectures); budget 45.0 kB, 0.32 % of the space within it"
    latency = {"metric": "latency", "budget": "latency <= 0.5 ms p90", "origin": "predicted", "min": 0.25, "max": 1.5, "limit": 0.5, "share": {"value": 0.5}}
    assert budget_line(latency) == "latency 0.25 ... 1.5 ms p90 (predicted); budget 0.5 ms, 50 % of the space within it"
    told = share_line({"value": 0.12345, "low": 0.1209, "high": 0.126, "samples": 65_536})
    assert told == "12.3 % of the space within all budgets (95 % interval 12.1 to 12.6 %, from 65,536 random architectures)"


def test_the_budget_line_stands_where_the_scale_puts_it():
    # Latencies from 0.05 to 0.15 ms, 5 % of the range beyond: 0.045 to 0.155 over 46 .. width - 12 pixels; 0.1 is the middle.
    lines = Page(render_html(REPORT)).of_class("budget")
    assert [(line["x1"], line["x2"], line["data-budget-ms"]) for line in lines] == [("497.0", "497.0", "0.1"), ("187.0", "187.0", "0.1")]
    moved = Page(render_html(replace(REPORT, budget_ms=0.07))).of_class("budget")
    assert float(moved[0]["x1"]) == pytest.approx(46 + (0.07 - 0.045) / 0.11 * 902, abs=0.06)
    # A budget beyond all points is part of the range: 0.05 to 0.25, so 0.04 to 0.26.
    beyond = Page(render_html(replace(REPORT, budget_ms=0.25))).of_class("budget")
    assert float(beyond[0]["x1"]) == pytest.approx(46 + (0.25 - 0.04) / 0.22 * 902, abs=0.06)


def test_the_front_is_a_staircase_that_steps_right_before_it_steps_up():
    page = Page(render_html(REPORT))
    # y: 60 to 90 %, so 58.5 to 91.5 over 408 .. 26 pixels
    assert page.of_class("stairs")[0]["d"] == "M87 274.9H497V159.1H661V43.4"
    assert [(dot["cx"], dot["cy"]) for dot in page.of_class("dot")[:3]] == [("87.0", "274.9"), ("497.0", "159.1"), ("661.0", "43.4")]
    assert page.of_class("cloud")[0]["d"] == "M907 390.6h0M251 332.8h0"
    assert "The front as a table (3 of 5 evaluated)" in page.text


def test_whiskers_span_p10_to_p90():
    # x(0.09) = 46 + 0.045/0.11 * 902 = 415, x(0.11) = 579, y(80) = 159.1
    assert Page(render_html(REPORT)).of_class("whisker")[0]["d"] == "M415.0 159.1H579.0"


def test_evaluations_that_failed_are_counted_and_not_drawn():
    page = Page(render_html(replace(REPORT, points=(*POINTS, Point(NAN, 0.08, False), Point(70, math.inf, False)))))
    assert "2 evaluations failed and are not drawn." in page.text
    assert page.of_class("cloud")[0]["d"].count("M") == 2
    assert "failed" not in Page(render_html(REPORT)).text


def test_every_measured_network_is_listed_with_what_was_measured():
    rows = re.findall(r"<tr[^>]*><td>.*?</tr>", section(render_html(REPORT), "networks"))
    cells = [[" ".join(Page(cell).text.split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]
    same = ["80.0", "81.2 79.9 to 82.5", "0.0980"]
    costs = ["0.0900 to 0.110", "48"]
    assert cells == [
        ["candidate 1", *same, "0.0954", "0.0978", *costs, "within", "1.48 M", "75.3 k"],
        ["candidate 2 chosen", *same, "0.0954", "0.0978", *costs, "within", "1.48 M", "75.3 k"],
        ["random", *same, "0.0961", "0.0978", *costs, "within", "1.48 M", "75.3 k"],
        ["uniform", *same, "0.0954", "–", *costs, "inconclusive", "1.48 M", "75.3 k"],
    ]


def test_predictions_are_shown_with_their_error_relative_to_the_measurement():
    report = replace(REPORT, measured=(network(predicted_ms=0.0992, measured_ms=0.08), network("largest", predicted_ms=0.3, measured_ms=0.0)))
    assert report.measured[0].relative_error == pytest.approx(0.24)
    text = Page(render_html(report)).text
    assert "candidate 0.0992 0.0800 +24.0 %" in text and "largest 0.300 0 –" in text


def test_points_on_the_diagonal_lie_on_the_diagonal():
    report = replace(REPORT, measured=(network(predicted_ms=0.1, measured_ms=0.1), network(predicted_ms=0.09, measured_ms=0.09)))
    # p10 0.09 to p90 0.11 on both axes, so 0.089 to 0.111: 0.1 is the middle of 46 .. 328 and of 278 .. 26, 0.09 a 22nd
    marks = [(mark["data-x"], mark["data-y"]) for _, mark in Page(section(render_html(report), "predictions")).tags if "data-x" in mark]
    assert marks == [("187.0", "152.0"), ("58.8", "266.5")]


def test_simulated_latencies_are_never_called_measured():
    for report in (SIMULATED, replace(SIMULATED, measured=()), replace(SIMULATED, certificate=None)):
        for text in (Page(render_html(report)).text, terminal(report)):
            assert not re.search(r"\b[Mm]easured\b", text)
            assert "Latencies of this run are simulated: they say nothing certain about a device." in text
    assert "at 0.0954 ms p50 simulated" in headline(SIMULATED)
    assert "predicted (simulated)" in Page(render_html(SIMULATED)).text


def test_what_the_certificate_says_of_its_origin_counts():
    report = replace(SIMULATED, certificate={"verdict": "within", "origin": "measured"})
    assert "p50 measured" in headline(report) and report.prediction_origin == "simulated"
    assert replace(REPORT, certificate={"origin": "predicted"}).measurement_origin == "measured"
    assert "simulated" not in Page(render_html(REPORT)).text


def test_the_certificate_is_shown_key_by_key_as_given():
    assert flat({"a": 0.109001, "b": {"c": None, "d": {"e": [1, "x"]}}, "f": {}, "g": True}) == [
        ("a", "0.109001"),
        ("b.c", "null"),
        ("b.d.e", '[1, "x"]'),
        ("f", "{}"),
        ("g", "true"),
    ]
    text = Page(render_html(REPORT)).text
    assert "verdict within confidence 0.99 visits 48 system.governor performance system.cores [0, 1]" in text
    assert "There is no certificate: no network is proven to keep the budget." in Page(render_html(replace(REPORT, certificate=None))).text


def test_layers_show_their_share_and_a_bar_in_proportion_to_the_greatest():
    page = Page(render_html(REPORT))
    bars = section(render_html(REPORT), "layers").partition("<table>")[2]
    assert re.findall(r'<rect width="([^"]*)"', bars) == ["100.0%", "0.0%", "50.0%"]
    assert "1x8x20x20: expand 32, depthwise 32 k5 s2, project 8" in page.text and BLOCK in page.text
    assert "all layers 1.00 k 100 0.0900 90.0 %" in page.text
    assert "constant of the calibration" in page.text
    whole = replace(REPORT, layers=(LayerShare("stem", BLOCK, 900, 80, 0.06, 1.0),))
    assert "constant of the calibration" not in Page(render_html(whole)).text


def test_choices_are_grouped_by_layer_and_skipped_layers_marked():
    assert "network resolution 40 stem kernel 5 expand 3 head, skipped kernel 3" in Page(render_html(REPORT)).text


def test_the_page_tells_how_to_reproduce_the_run():
    text = Page(render_html(REPORT)).text
    assert "hwnas search runs/digits --latency '<= 0.1 ms p50' hwnas verify runs/digits" in text
    assert "train 4 min 32 s verify 1 min 00 s" in text and "hwnas 0.1.0, torch 2.15.0" in text


def test_sections_come_in_the_order_of_the_questions():
    always = ["front", "predictions", "certificate", "networks", "comparisons", "layers", "architecture", "quality", "reproduce"]
    order = ["front", "course", "predictions", "certificate", "devices", *always[3:5], "precisions", *always[5:8], "conditions", "reproduce"]
    for report, expected in ((REPORT, always), (NOTHING, always), (FULL, order)):
        tags = Page(render_html(report)).tags
        assert [attributes["id"] for tag, attributes in tags if tag == "section"] == expected
        assert [attributes["href"] for tag, attributes in tags if tag == "a"] == [f"#{name}" for name in expected]


@pytest.mark.parametrize(
    "report",
    [
        NOTHING,
        replace(NOTHING, points=(Point(70, 0.1, True),)),
        replace(NOTHING, points=(Point(70, 0.1, False),) * 3, budget_ms=0.1),
        replace(NOTHING, points=(Point(NAN, NAN, False),)),
        replace(NOTHING, measured=(network(p10_ms=NAN, p90_ms=NAN),)),
        replace(NOTHING, measured=(network(measured_ms=NAN, upper_bound_ms=None, predicted_ms=NAN, validation_accuracy_pct=NAN, test_accuracy_pct=None),)),
        replace(NOTHING, layers=(LayerShare("only", "absent", 0, 0, NAN, NAN),)),
        replace(NOTHING, comparisons=(comparison(0.0, 0.0, 0.0),)),
        replace(NOTHING, quality={"calibrated": {}}, space_max_ms=0.0),
    ],
)
def test_what_is_missing_is_left_out_and_never_shown_as_a_number(report):
    page = Page(render_html(report))
    for text in (page.text, terminal(report), str([value for _, attributes in page.tags for value in attributes.values() if value])):
        assert not re.search(r"\bnan\b|\binf\b|None|Undefined", text)
    assert "No candidate was certified" in page.text


def test_quality_shows_what_there_is():
    headings, rows = quality_rows({**QUALITY, "odd <i>": {"mape": None, "new_figure": 0.51234, "kendall": "?"}})
    assert headings == ["prediction", "networks", "mean error", "within 5 %", "Kendall τ", "new_figure"]
    assert rows == [
        ["calibrated table", "24", "2.1 %", "95.8 %", "0.931", "–"],
        ["line through MACs", "24", "11.2 %", "–", "–", "–"],
        ["odd <i>", "–", "–", "–", "?", "0.512"],
    ]
    assert quality_rows({"networks": 8, "mape": NAN}) == (["prediction", "networks", "mean error"], [["latency", "8", "–"]])
    assert quality_rows({}) == (["prediction"], [])


def test_the_terminal_report_fits_100_columns_and_loses_no_figure():
    long = replace(network("a role with a long name", verdict="inconclusive", predicted_ms=1234.5, measured_ms=1234.5, upper_bound_ms=1234.5), visits=12345)
    text = terminal(replace(REPORT, measured=(*REPORT.measured, long, long)))
    assert max(map(len, text.splitlines())) <= 100
    for figures in ("0.0980  0.0954   0.0978", "1,234  1,234"):
        assert figures.replace(" ", "") in text.replace(" ", "")
    assert "12345  1.48 M  75.3 k  inconclusive" in text
    assert "evaluated 5, on the front 3: 70.0 % at 0.0500 ms … 90.0 % at 0.120 ms (validation accuracy, latency" in text
    assert "stem" in text and "60.0 %" in text and "████████████████" in text
    assert "calibrated table" in text and "95.8 %" in text


def test_a_thousand_points_on_one_pixel_are_drawn_once():
    one = render_html(replace(REPORT, points=(*POINTS, Point(65, 0.08, False))))
    many = render_html(replace(REPORT, points=(*POINTS, *[Point(65, 0.08, False)] * 1000)))
    assert len(many) - len(one) < 50


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (significant(0.1196), "0.120"),
        (significant(0.12), "0.120"),
        (significant(0.00951), "0.00951"),
        (significant(9.999), "10.0"),
        (significant(1234.5), "1,234"),
        (significant(-0.5), "−0.500"),
        (significant(0.0), "0"),
        (significant(None), "–"),
        (significant(0.10004, 5), "0.10004"),
        (count(1_484_112), "1.48 M"),
        (count(999_960), "1.00 M"),
        (count(75_312), "75.3 k"),
        (count(812), "812"),
        (count(566.2e6), "566 M"),
        (count(0), "0"),
        (cost("macs", 610_304), "610 k"),
        (cost("memory", 38_400), "38.4 kB"),
        (cost("memory", 640), "640 B"),
        (cost("memory", None), "–"),
        (cost_name("params"), "parameters"),
        (cost_name("x\n"), "x "),
        (percent(89.06), "89.1"),
        (share(0.1234), "12.3 %"),
        (signed(1.94), "+1.9"),
        (signed(-0.04), "−0.04"),
        (signed(0.0), "+0.0"),
        (duration(0.42), "0.420 s"),
        (duration(12.34), "12.3 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(272.4), "4 min 32 s"),
        (duration(7500), "2 h 05 min"),
        (confidence(0.99), "99 %"),
        (confidence(1 - 0.01 / 3), "99.67 %"),
        (confidence("0.99"), "–"),
        (plain("a\tb\x1b[31m\u202ec"), "a b\ufffd[31m\ufffdc"),
        (short_block("identity"), "skipped"),
        (short_block("x" * 200), "x" * 159 + "…"),
    ],
)
def test_numbers_and_names_are_written_with_sensible_digits(written, expected):
    assert written == expected


def test_networks_are_numbered_where_a_role_occurs_twice():
    assert labels([network(), network("random"), network()]) == ("candidate 1", "random", "candidate 2")


def test_ticks_are_round_and_inside_the_scale():
    assert [tick.text for tick in Scale(0.045, 0.155, 46, 948).ticks(80)] == [f"{hundredth / 100:.2f}" for hundredth in range(5, 16)]
    assert [tick.text for tick in Scale(0.045, 0.155, 46, 328).ticks(80)] == ["0.05", "0.10", "0.15"]
    assert [tick.text for tick in Scale(58.5, 91.5, 408, 26).ticks(44)] == ["60", "65", "70", "75", "80", "85", "90"]
    assert [tick.px for tick in Scale(0, 10, 0, 100).ticks(40)] == [0, 50, 100]
    assert Scale.over([3.0], 0, 10)(3.0) == 5 and Scale.over([0.0], 0, 10)(0.0) == 5 and Scale.over([1.0, NAN, 2.0], 0, 11)(2.0) == 10.5


def test_what_was_not_measured_in_a_precision_says_how_to_measure_it():
    rows = re.findall(r"<tr[^>]*><td>.*?</tr>", section(render_html(FULL), "precisions"))
    cells = [[" ".join(Page(cell).text.split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]
    assert cells == [
        ["fp32", "81.2 (4,000)", "0.0954", "–", "48", "301 kB", "as measured by verify"],
        ["fp16", "–", "–", "–", "–", "–", "not measured: hwnas export digits --to FOLDER --precision fp16"],
        ["int8_u8s8", "80.5 (4,000)", "0.0716", "0.751", "33", "92.0 kB", "by export, both files in one window"],
    ]


def test_a_budget_that_is_only_predicted_on_a_device_is_not_called_measured():
    text = Page(section(render_html(FULL), "devices")).text
    assert "phone/onnxruntime-1.32.0-4threads it was not named with --also 3.000 p90 2.500 not measured – predicted" in text


def test_predictions_have_the_interval_of_networks_left_out():
    text = Page(section(render_html(FULL), "predictions")).text
    assert "In the band, +4.0 % to −3.8 %, lie 90 % of networks like the table's" in text and "3 whole networks of the table" in text
    assert "candidate 1 0.0980 0.0954 0.0942 to 0.102 +2.7 %" in text  # 0.098 / 1.04, 0.098 * 1.04


def test_the_terminal_shows_devices_and_precisions_in_short():
    text = " ".join(terminal(FULL).split())
    assert "phone/onnxruntime-1.32.0-4threads 3 p90 2.500 – – predicted" in text
    assert "int8_u8s8 80.5 0.0716 0.751 92.0 kB" in text and "fp16 – – – –" in text
    assert "in other precisions" not in terminal(replace(FULL, precisions=FULL.precisions[:2]))


def test_published_networks_stand_beside_the_certificate():
    text = Page(section(render_html(FULL), "certificate")).text
    assert "Published networks: mobilenet_v3_small took 0.0912 ms" in text
    assert "mobilenet_v3_small 0.0912 0.0934 within 67.7 ImageNet, as published 57.0 M –" in text


def test_the_best_so_far_is_drawn_over_evaluations_beside_random_search():
    first, *others = course_figures(FULL, 340, 230)
    assert (first.over, first.label, first.unit, first.last) == ("evaluations", "best so far", "%", 75.5)
    assert [course.name for course in first.courses] == ["search", "random"] and first.courses[0].line.count("H") == 2
    assert [each.label for each in others] == ["reward", "entropy"] and {each.over for each in others} == {"point"}
    assert "search, evaluations 4: 75.50 %" in render_html(FULL) and "random search 73.0" in Page(render_html(FULL)).text


def test_parts_of_a_flame_lie_below_what_they_are_of_and_fill_it():
    drawn = flame(
        [Part(("a", "a.x"), 0.2, "conv", "1"), Part(("a", "a.y"), 0.1, "pool", "2"), Part(("b", "b.x"), 0.1, "conv", "3"), Part(("c", "z"), NAN, "-", "")]
    )
    places = {(cell.row, cell.name): (cell.begin_pct, cell.width_pct, cell.colour) for cell in drawn.cells}
    assert places == {
        (0, "a"): (0.0, 75.0, 0),
        (0, "b"): (75.0, 25.0, 0),
        (1, "a.x"): (0.0, 50.0, 0),
        (1, "a.y"): (50.0, 25.0, 1),
        (1, "b.x"): (75.0, 25.0, 0),
    }
    assert [(kind.name, kind.count, round(kind.share, 6)) for kind in drawn.kinds] == [("conv", 2, 0.75), ("pool", 1, 0.25)]
    assert flame([]) is None and flame([Part(("a",), 0.0, "k", "")]) is None
    many = flame([Part((str(i),), 1.0, str(i), "") for i in range(20)])
    assert max(cell.colour for cell in many.cells) == COLOURS - 1


def test_operators_are_summed_by_what_they_compute():
    text = Page(section(render_html(FULL), "layers")).text
    assert "convolution 3 x 3 2 75.0 % depthwise 5 x 5 1 15.0 % ReorderOutput 1 10.0 %" in text and "they are no latency" in text
    failed = replace(FULL, profiled=Profiled("here", 50, (), "it has no profiler"))
    assert "Time by operator is not known: it has no profiler" in Page(render_html(failed)).text
    assert "hwnas report RUN --layers" in Page(render_html(REPORT)).text


def test_the_page_s_files_are_part_of_the_package():
    assert all((files("hwnas") / f"report.{kind}").is_file() for kind in ("html.jinja", "css", "js"))
