"""What a person does with our pages in a real browser: looks, hovers, clicks, filters, on a desk and on a phone."""

from __future__ import annotations

import pytest

from autoprune.report.pages.comparison import comparison_page
from autoprune.report.pages.front import front_data, marks_of, write_front_html
from tests.browser.chromium import browser
from tests.report.recorded_run import GROUPS, search, shown, summary

pytestmark = pytest.mark.browser

#: Centre of the circle of a candidate; rings around marks are circles, too.
CANDIDATES = """[...document.querySelectorAll('#svg circle:not(.ring)')].map(c => {
  const r = c.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LOOKS = [(1280, False), (1280, True), (390, False), (390, True)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def front(tmp_path):
    """Returns the address of the front page of a search that was written by hand."""
    _, rows, _ = shown(search())
    path = tmp_path / "front.html"
    told = summary()
    write_front_html(
        path, front_data(rows, marks=marks_of(told), budget=told["budget"], dense_widths=GROUPS, run="runs/some")
    )
    return path.as_uri()


def pages(tmp_path):
    """Returns {name: address} of a report and of a comparison."""
    layers = [{"name": "stem", "dense": 600, "uniform": 300, "pruned": 350}]
    rows = [{"device": "cpu", "batch": 1, "dense": 2e-3, "pruned": 1e-3, "speedup": 2.0, "spread": 0, "steady": True}]
    latency = {"rows": rows, "threads": 1, "repeats": 9, "warm_up": 1, "machine": "a processor", "torch": "2"}
    numbers, candidates, report = shown(search(layers=layers, latency={**latency, "input_shape": [1, 8, 8]}))
    found = {"report": report, "compare": comparison_page([(numbers, candidates), (numbers, candidates)])}
    for name, text in found.items():
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (tmp_path / f"{name}.html").as_uri() for name in found}


def test_hovering_shows_widths_and_clicking_copies_the_command(page, front):
    page.open(front)
    x, y = page.ask(CANDIDATES)[0]
    page.move(x, y)
    page.wait("!document.querySelector('#tip').hidden")
    said = page.ask("document.querySelector('#tip').innerText")
    assert "hold-out accuracy" in said
    assert "channels in 2 groups" in said
    number = said.split("#")[1].split()[0]
    page.click(x, y)
    toast = page.wait("document.querySelector('#toast.on')?.innerText")
    assert toast.endswith(f"autoprune pick runs/some --id {number}")
    assert f"--id {number}" in page.ask("document.querySelector('#panel code').innerText")
    assert page.complaints == []


def test_strategies_and_fidelities_are_filtered(page, front):
    for chips, name, left in (("#strategies", "pca", 2), ("#rungs", "slice", 3)):
        page.open(front)
        assert len(page.ask(CANDIDATES)) == 4
        press = f"[...document.querySelectorAll('{chips} button')].find(b => b.innerText.includes('{name}')).click()"
        page.ask(press)
        assert len(page.ask(CANDIDATES)) == left


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_no_page_is_wider_than_its_screen_and_none_complains(page, front, tmp_path, width, dark):
    for name, address in {"front": front, **pages(tmp_path)}.items():
        page.open(address, width=width, dark=dark)
        page.wait("document.querySelectorAll('svg').length > 0")
        picture = page.picture(tmp_path / f"{name}-{width}{'-dark' if dark else ''}.png", whole=True)
        assert len(picture) > 20_000, name
        assert page.ask(OVERFLOW) <= 0, name
        ground = page.ask("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    assert page.complaints == []
