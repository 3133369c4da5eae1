"""hwnas/report.js, report.css: the page of a report in a real headless Chromium, on a desk and on a phone, in light and dark, and with hostile names."""

import io
import re
from importlib.resources import files

import pytest
from PIL import Image

from hwnas.report_html import render_html
from tests.chromium import chromium
from tests.test_report import FULL, NOTHING, REPORT, hostile

FRONT = 'document.querySelector("#front svg.wide")'


@pytest.fixture(scope="module")
def page():
    with chromium() as tab:
        yield tab


@pytest.fixture
def shown(page, tmp_path):
    """Shows a report, in a window of some width."""

    def show(report, width=1100, scheme="light"):
        path = tmp_path / "report.html"
        path.write_text(render_html(report), encoding="utf-8")
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(path, width)
        return page

    return show


def colours(page, tmp_path):
    page.picture(tmp_path / "page.png")
    image = Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())).convert("RGB")
    return {colour for number, colour in image.getcolors(image.width * image.height)}


@pytest.mark.parametrize("report", [REPORT, FULL, NOTHING, hostile()], ids=["plain", "full", "empty", "hostile"])
@pytest.mark.parametrize("width", [1100, 360, 320])
def test_a_page_shows_without_network_errors_or_sideways_scrolling(shown, report, width):
    page = shown(report, width)
    assert page.value("document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
    assert [each["documentURL"] for each in page.events("Network.requestWillBeSent")] == [page.value("location.href")]
    assert page.events("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening") == []
    assert page.value("document.querySelectorAll('img, iframe, script').length") == 1  # its own script
    assert page.value("[...document.querySelectorAll('button')].every(each => each.getAttribute('aria-label'))")
    assert page.value("[...document.querySelectorAll('[role=img], [role=region], nav')].every(each => each.getAttribute('aria-label').length > 3)")
    ids = page.value("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("scheme", "expected"), [("light", {"#2466ad", "#b3530b", "#a8262f"}), ("dark", {"#74aef0", "#f2a25c", "#f0848b"})])
def test_a_browser_draws_the_front_the_networks_and_the_budget(shown, tmp_path, scheme, expected):
    found = colours(shown(FULL, scheme=scheme), tmp_path)
    assert len(found) > 50 and {tuple(bytes.fromhex(each[1:])) for each in expected} <= found


def at(page, x, y):
    """Where a place of the front's figure is in the window."""
    return page.value(
        f"(() => {{ const svg = {FRONT}; svg.scrollIntoView({{block: 'center'}}); const box = svg.getBoundingClientRect(), scale = box.width / 960; "
        f"return [box.left + {x} * scale, box.top + {y} * scale]; }})()"
    )


def tip(page):
    return page.value("(() => { const tip = document.querySelector('#front .tip'); return tip.hidden ? null : tip.textContent; })()")


def test_what_lies_under_the_pointer_is_told(shown):
    page = shown(FULL)
    page.mouse("mouseMoved", *at(page, 661, 43.4))  # of the front: 90 % at 0.12 ms
    assert tip(page) == "front: 0.120 ms predicted, validation accuracy 90.0 %"
    page.mouse("mouseMoved", *at(page, 907, 390.6))  # of the cloud: 60 % at 0.15 ms
    assert tip(page) == "evaluated: 0.150 ms predicted, 60.0 %"
    page.mouse("mouseMoved", *at(page, 780, 200))
    assert tip(page) is None


def test_zoom_keeps_every_point_at_its_value_on_the_axes(shown):
    page = shown(FULL)

    def measured():
        """(zoom, latency that the ticks say is where the front's last point is, first and last tick)."""
        return page.value(
            f"(() => {{ const svg = {FRONT}, place = each => each.getBoundingClientRect();"
            "const ticks = [...svg.querySelectorAll('.ticks-x text')].map(each => [Number(each.textContent), place(each).left + place(each).width / 2]);"
            "const [a, b] = [ticks[0], ticks.at(-1)], box = place(svg.querySelectorAll('circle.dot')[2]), x = box.left + box.width / 2;"
            "return [Number(svg.dataset.zoom), a[0] + (x - a[1]) / (b[1] - a[1]) * (b[0] - a[0]), a[0], b[0]]; })()"
        )

    assert measured()[1] == pytest.approx(0.12, abs=2e-4)
    before = page.value(f"{FRONT}.querySelector('.axes').innerHTML.replace(/\\s+/g, '')")
    place = at(page, 661, 43.4)
    page.mouse("mouseWheel", *place, deltaX=0, deltaY=-200, modifiers=2)
    zoom, latency, first, last = measured()
    assert zoom == pytest.approx(2.71828, abs=0.01) and latency == pytest.approx(0.12, abs=2e-4) and 0.05 < first < 0.12 < last < 0.15
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
        page.mouse(kind, place[0] + dx, place[1], button="left", buttons=1, clickCount=1)
    moved = measured()
    assert moved[1] == pytest.approx(0.12, abs=2e-4) and (moved[2], moved[3]) != (first, last)
    page.value("document.querySelector('#front button[aria-label=\"the whole figure\"]').click()")
    assert measured()[0] == 1 and measured()[1] == pytest.approx(0.12, abs=2e-4)
    after = page.value(f"{FRONT}.querySelector('.axes').innerHTML.replace(/\\s+/g, '')")
    page.mouse("mouseWheel", *place, deltaX=0, deltaY=-100)
    assert measured()[0] == 1  # a wheel alone belongs to the page
    ticks = re.findall(r">([\d.]+)</text>", before)
    assert re.findall(r">([\d.]+)</text>", after) == ticks and len(ticks) > 10


def test_figures_zoom_by_buttons_and_by_keys(shown):
    page = shown(FULL)
    page.value("document.querySelector('#front button[aria-label=\"zoom in\"]').click()")
    assert page.value(f"Number({FRONT}.dataset.zoom)") == pytest.approx(1.6)
    page.value(f"{FRONT}.focus()")
    for key, zoom in (("+", 2.56), ("-", 1.6), ("0", 1)):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        assert page.value(f"Number({FRONT}.dataset.zoom)") == pytest.approx(zoom)


def test_a_part_of_the_bar_can_be_seen_alone(shown):
    page = shown(FULL)
    cells = (
        "[...document.querySelectorAll('figure.flame:last-of-type svg.cell')].map(each => [each.textContent, Math.round(each.getBoundingClientRect().width)])"
    )
    before = dict(page.value(cells))
    assert before["stem"] == pytest.approx(1.5 * before["tail"], abs=2) and before["0.conv_nchwc"] == pytest.approx(5 * before["ReorderOutput"], rel=0.05)
    stem = "[...document.querySelectorAll('figure.flame:last-of-type svg.cell')].find(each => each.textContent === 'stem')"
    page.value(f"{stem}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    after = dict(page.value(cells))
    assert after["stem"] == pytest.approx(before["stem"] + before["tail"], abs=2) and after["0.conv_nchwc"] == pytest.approx(after["stem"] * 5 / 6, abs=2)


def test_names_with_markup_are_text_and_nothing_runs(shown):
    page = shown(hostile())
    assert page.value("document.title").startswith('"><script>alert')
    assert page.events("Page.javascriptDialogOpening") == [] and page.value("document.querySelectorAll('[onerror]').length") == 0
    page.value(f"{FRONT}.scrollIntoView({{block: 'center'}})")
    page.mouse("mouseMoved", *at(page, 661, 43.4))
    assert "predicted" in tip(page) and page.value("document.querySelector('#front .tip').children.length") == 0


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_the_contrast_that_readers_need(scheme):
    style = (files("hwnas") / "report.css").read_text()
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    texts = [(ink, ground) for ground in ("page", "card") for ink in ("ink", "soft", "good", "bad", "budget", "front")]
    texts += [("card", f"k{i}") for i in range(8)] + [("page", "ink")]
    for ink, ground in texts:
        light, dark = sorted((luminance(named[ink]), luminance(named[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)  # WCAG 2.2, 1.4.3
