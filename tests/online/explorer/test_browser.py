"""The pages in a real browser: by keyboard, on a phone, in the dark, on paper; silent console, no request elsewhere."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("litestar", reason="the service is a Litestar application")
pytest.importorskip("lmdb", reason="the embedded store is LMDB")
pytest.importorskip("playwright", reason="Playwright drives the browser")

import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright
from tests.online.explorer.conftest import METRICS, SCRIPT, Site
from tests.online.explorer.test_freshness import dead
from tests.online.explorer.test_pictures import MP4
from tests.online.explorer.test_trials import look, written
from tests.online.service.conftest import Served
from tests.online.service.small_service import EXPERIMENTS, services

from captionary.online.service.app import create_app
from captionary.online.status import WorkerStatus, report_worker

PATHS = (
    *("/explore", "/explore/feed", "/explore/feed?user=u1", "/explore/users", "/explore/user?id=u1"),
    *("/explore/user/erase?id=u1", "/explore/user/forget?id=u1", "/explore/items", "/explore/items?word=dog"),
    *("/explore/item?id=2001", "/explore/item?id=2002", "/explore/item?id=2003"),
    *("/explore/experiments", "/explore/ingest"),
    f"/explore/user?id={'u' * 200}",
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# What reaches beyond the right edge, outside of what scrolls by itself or is hidden on purpose.
WIDE = """() => [...document.querySelectorAll("body *")]
  .filter(one => !one.closest(".scroll, svg, .hidden, thead, .skip")
  && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(one => one.tagName + "." + one.className).slice(0, 5)"""
# Contrast of every piece of text with what lies behind it, as WCAG 2 has it; those below AA.
FAINT = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [.2126, .7152, .0722][k], 0);
  const behind = one => { for (; one; one = one.parentElement) { const c = parse(getComputedStyle(one).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !one.checkVisibility()) continue;
    const style = getComputedStyle(one), svg = one.namespaceURI.endsWith("svg");
    if (one.tagName.toLowerCase() === "title") continue;
    const [a, b] = [light(parse(svg ? style.fill : style.color)), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05), size = parseFloat(style.fontSize);
    if (ratio < (size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5))
      found.push(`${one.tagName}.${one.className} ${ratio.toFixed(2)}: ${one.textContent.slice(0, 30)}`);
  }
  return found;
}"""
NAMELESS = """() => [...document.querySelectorAll("a[href], button, input, select, img, svg[role=img]")]
  .filter(one => !one.closest("[aria-hidden=true], [hidden]") && one.type !== "hidden" && one.checkVisibility())
  .filter(one => !(one.getAttribute("aria-label") || one.alt || one.innerText?.trim()
    || one.labels?.[0]?.innerText.trim()
    || one.querySelector("title, img[alt]:not([alt=''])")))
  .map(one => one.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Site]]:
    """The address of a service on a free port, in a thread."""
    folder = tmp_path_factory.mktemp("browser")
    made = services(folder, experiments=EXPERIMENTS + METRICS, open_to_all=True)
    site = Site(Served(None, made, folder, {}))  # type: ignore[arg-type]
    site.upload(2001, f"a {SCRIPT} dog", title="<script>document.title='run'</script>")
    site.upload(2002, "W" * 300, title="W" * 200)  # no place to break a line
    site.upload(2003, "a dog that runs", data=MP4)
    dead(site, 2, "corrupt", "W" * 300)
    now = time.time_ns() // 1000
    status = WorkerStatus(
        name="w" * 60, seen_at=now, started_at=now, items=10**7, events=10**9, trouble="W" * 100
    )
    report_worker(made.store, status)
    written(site, [look(day, 0.02) for day in range(1, 6)])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(create_app(made), port=port, log_config=None, lifespan="on", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", site
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine to look at the pages with")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


def opened(browser: Browser, **settings: Any) -> tuple[Page, list[str]]:
    """A page, and what it should not have done so far."""
    page, said = browser.new_context(**settings).new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on(
        "request", lambda request: said.append(request.url) if "://127.0.0.1:" not in request.url else None
    )
    return page, said


@pytest.mark.parametrize(
    ("width", "scheme", "media"),
    [(320, "light", "screen"), (320, "dark", "screen"), (1200, "dark", "screen"), (688, "light", "print")],
)
def test_pages_fit_can_be_read_and_ask_for_nothing(browser, address, width, scheme, media):
    page, said = opened(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.emulate_media(media=media, color_scheme=scheme)
    for path in PATHS:
        page.goto(address[0] + path, wait_until="load")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(WIDE) == [], path
        assert page.evaluate(FAINT) == [], path
        assert page.evaluate(NAMELESS) == [], path
        assert page.title() != "run"
        assert page.title().endswith("· Captionary")
        if media == "screen":
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 26)"
            assert dark == (scheme == "dark")
    page.goto(f"{address[0]}/explore/item?id=2003")
    assert page.get_by_role("img", name="Video: a dog that runs").is_visible()
    assert said == []
    page.context.close()


def test_what_the_other_test_would_notice(browser, address):
    page, said = opened(browser)
    page.goto(address[0] + "/explore/item?id=2001")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    )
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2:9/x.png'}))")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>')")
    page.wait_for_timeout(100)
    assert page.title() != "1"
    assert len([one for one in said if "Content Security Policy" in one]) == 3
    page.evaluate(
        "document.styleSheets[0].insertRule('.lead, h1 { color: #999 !important; width: 2000px; max-width: none }')"
    )
    assert page.evaluate(FAINT)
    assert page.evaluate(WIDE)
    page.context.close()


def test_by_keyboard_alone_and_without_script(browser, address):
    url, site = address
    page, said = opened(browser, java_script_enabled=False, viewport={"width": 1200, "height": 800})
    page.goto(f"{url}/explore/user?id=u1")
    page.keyboard.press("Tab")
    skip = page.locator("a.skip")
    assert skip.bounding_box()["y"] >= 0  # it comes into sight with the focus
    page.keyboard.press("Enter")
    # From the content on, Tab leads to the first word's buttons; each can be seen to have the focus.
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.count() == 1
        assert focused.locator("xpath=ancestor-or-self::header").count() == 0
        if (focused.get_attribute("aria-label") or "").startswith("Mute "):
            break
    label = focused.get_attribute("aria-label")
    word = label.removeprefix("Mute ")
    page.keyboard.press("Enter")
    page.wait_for_url("**#done")
    assert f"“{word}” is muted" in page.locator("[role=status]").inner_text()
    assert page.get_by_role("button", name=f"Unmute {word}", exact=True).first.is_visible()
    assert site.services.store.governance_of("u1").actions[-1].verb == "mute"
    page.get_by_role("button", name=f"Unmute {word}", exact=True).first.press("Enter")
    page.wait_for_url("**done=unmute**")
    assert site.services.store.governance_of("u1").actions[-1].verb == "unmute"
    # Enter in the checkbox of a list must not press its first button.
    page.locator("input[name=everywhere]").first.press("Enter")
    page.wait_for_url("**/explore/user?id=u1")
    assert site.services.store.governance_of("u1").actions[-1].verb == "unmute"
    page.goto(f"{url}/explore")
    page.get_by_role("textbox", name="User id").fill("u2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/explore/feed?user=u2")
    assert page.get_by_role("heading", level=1).inner_text() == "The feed of user u2"
    assert said == []
    page.context.close()


def test_focus_is_seen(browser, address):
    page, _ = opened(browser)
    page.goto(f"{address[0]}/explore/user?id=u1")
    for _ in range(25):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "(one => one.outlineStyle + one.outlineWidth)(getComputedStyle(document.activeElement))"
        )
        assert outline == "solid3px"
    page.context.close()


def test_figures_of_ingest_stay_fresh_and_can_be_held(browser, address):
    url, site = address
    page, said = opened(browser)
    page.clock.install()
    page.goto(f"{url}/explore/ingest")
    given_up = page.locator("#live-figures dd", has_text="2").first
    assert given_up.is_visible()
    site.services.log.revive("media")
    box = page.get_by_label("Update every 5 seconds")
    box.uncheck()
    page.clock.fast_forward(6000)
    page.wait_for_timeout(100)
    assert page.locator("#live-figures").inner_text().count("no dead letters") == 1
    box.check()
    page.clock.fast_forward(6000)
    # The page's policy forbids what Playwright's own waiting evaluates.
    for _ in range(50):
        if page.locator("#live-figures").inner_text().count("no dead letters") == 2:
            break
        page.wait_for_timeout(100)
    assert page.locator("#live-figures").inner_text().count("no dead letters") == 2
    assert page.locator("#live-figures").get_attribute("aria-live") == "polite"
    assert said == []
    page.context.close()
