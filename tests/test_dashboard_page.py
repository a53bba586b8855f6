"""The page of `hotstream dashboard` in a browser: it loads, follows, searches and looks back, readable by everybody."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import CHROMIUM, Browser, browser
from test_dashboard_server import beside_a_shadow, served
from test_top_model import NOW_MS, reported_broker, send_metrics

from streams.records import TrainerMetrics

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium; on Debian: apt-get install chromium, and run again"
)
AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"))
SIZES = ((1280, 900, "light"), (1280, 900, "dark"), (390, 844, "light"))
# What a reader of the page without axe-core can check: names, landmarks, ids, contrast of all texts, and no overflow.
CHECKS = """(() => {
  const found = [], all = (selector) => [...document.querySelectorAll(selector)];
  const seen = (element) => element.checkVisibility() && element.getClientRects().length > 0;
  for (const one of all("input")) if (!one.labels.length) found.push(`input ${one.id} has no label`);
  for (const one of all("button, a")) if (!one.textContent.trim() && seen(one)) found.push("a control has no text");
  for (const one of all("svg, meter, [tabindex='0']"))
    if (!one.matches("[aria-label], [aria-labelledby]")) found.push(`${one.tagName} has no name`);
  for (const name of ["h1", "main", "header", "nav"]) if (all(name).length !== 1) found.push(`not one ${name}`);
  for (const one of all("th")) if (!one.scope) found.push(`th ${one.textContent} has no scope`);
  const ids = all("[id]").map((one) => one.id);
  if (new Set(ids).size !== ids.length) found.push("an id is there twice");
  if (!document.documentElement.lang) found.push("no language");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the screen");
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const curve = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = parts(colour).map((one) => curve(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  for (const one of all("body *")) {
    const hasText = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || !seen(one) || one.closest("svg")) continue;
    const [low, high] = [light(getComputedStyle(one).color), light(ground(one))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)} of ${one.tagName} ${one.textContent.slice(0, 40)}`);
  }
  return found;
})()"""


def text_of(name: str) -> str:
    return f"document.getElementById({json.dumps(name)}).textContent"


async def follow_and_look_back(page: Browser, report: Callable[[int], None]) -> None:
    await page.until(f"{text_of('state')} === 'live' && document.querySelectorAll('#features tbody tr').length > 3")
    await page.until(f"{text_of('auc')} === '0.7500' || {text_of('auc-note')}.includes('hash 0.7400')")
    report(7654)
    await page.until(f"{text_of('rows-note')}.includes('7,654 rows')")
    await page.until("document.querySelectorAll('#charts svg path').length > 3")

    name = await page.evaluate(
        "document.getElementById('story-name').value = document.querySelector('#features button').textContent"
    )
    await page.evaluate("document.getElementById('story-form').requestSubmit()")
    await page.until(f"{text_of('story-answer')}.startsWith({json.dumps(name)})")
    assert "is hot in row" in await page.evaluate(text_of("story-answer"))
    assert await page.evaluate("document.querySelectorAll('#story-events tbody tr').length") >= 1

    await page.evaluate(
        "const slider = document.getElementById('slider'); slider.value = 0; slider.dispatchEvent(new Event('input'))"
    )
    await page.until(f"{text_of('past-answer')}.includes(' 0 hot features')")
    await page.evaluate("slider.value = 1000; slider.dispatchEvent(new Event('input'))")
    await page.until(f"/ [1-9][0-9]* hot features, equal/.test({text_of('past-answer')})")


async def compare(page: Browser) -> None:
    await page.evaluate("document.getElementById('compare').click()")
    await page.until(f"{text_of('compare-answer')}.startsWith('compared at ')")
    cells = "[...document.querySelector('#compared tbody tr').cells].map((one) => one.textContent)"
    name, *hot = await page.evaluate(cells)
    assert (name, [int(number) > 0 for number in hot]) == ("hot features", [True, True])
    assert await page.evaluate("document.querySelectorAll('#only-running tbody button').length") == 3
    boxes = "[...document.querySelectorAll('#compare-found .scroll')].map((one) => one.scrollWidth - one.clientWidth)"
    assert await page.evaluate(boxes) == [0, 0, 0]  # every figure is seen without scrolling


async def check_for_everybody(page: Browser) -> None:
    for width, height, scheme in SIZES:
        await page.show(width=width, height=height, scheme=scheme)
        assert await page.evaluate(CHECKS) == [], (width, scheme)
    if AXE.exists():
        await page.evaluate(AXE.read_text() + ";0")
        for width, height, scheme in SIZES:
            await page.show(width=width, height=height, scheme=scheme)
            violations = "violations.map((one) => [one.id, one.nodes.map((node) => node.html)])"
            found = await page.evaluate(f"axe.run().then(({{violations}}) => {violations})")
            assert found == [], (width, scheme)


async def check_keys(page: Browser) -> None:
    async def press(key: str, code: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await page.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, text=key)

    await page.evaluate("document.activeElement.blur()")
    await press(" ", "Space")
    await page.until(f"{text_of('state')} === 'paused'")
    await press(" ", "Space")
    await page.until(f"{text_of('state')} === 'live'")
    await press("/", "Slash")
    assert await page.evaluate("document.activeElement.id") == "filter"


def test_the_page_loads_follows_searches_and_looks_back_for_everybody(tmp_path: Path) -> None:
    broker = reported_broker()
    options = beside_a_shadow(broker)

    def report(rows: int) -> None:
        send_metrics(
            broker,
            TrainerMetrics(time_ms=NOW_MS, rows=rows, rows_per_s=5.0, lag_records=0, hot=2, auc={"adaptive": 0.75}),
        )

    async def whole() -> list[str]:
        async with served(broker, **options) as client, browser(tmp_path) as page:
            await page.show(width=1280, height=900)
            await page.call("Page.navigate", url=str(client.make_url("/")))
            await page.until("document.getElementById('state') !== null")
            await follow_and_look_back(page, report)
            await compare(page)
            await check_keys(page)
            await check_for_everybody(page)
            return page.problems

    assert asyncio.run(asyncio.wait_for(whole(), 120)) == []
