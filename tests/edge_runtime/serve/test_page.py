"""The page in a real browser: it loads, follows the loop, survives restarts, tells what is stale, asks for tokens."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.device import DeviceReadings
from edge_runtime.latency import summarize
from edge_runtime.live import Counts, DriftState, Histogram, LiveWriter, Series, Shown
from tests.edge_runtime.live_status import running
from tests.edge_runtime.serve.visitor import TOKEN, serving

LOOKS = 600  # not seconds: a machine that was stopped for a minute has not looked
PHONE, DESK = (360, 740), (1280, 900)
ON_THE_SMALLEST_PHONE = 360


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system; selenium's own downloads are never asked for."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with contextlib.closing(
        Window(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
    ) as window:
        yield window


class Window:
    """What a person does with the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def close(self) -> None:
        self.driver.quit()

    def visit(self, url: str, size: tuple[int, int] = DESK) -> None:
        """Open a page with an empty log of what went wrong."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.complaints(), self.requests()
        self.driver.get(url)

    def complaints(self) -> list[str]:
        """Return the console's messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that the browser asked for since the last call."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [
            entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if url.startswith(("http", "ws", "ftp"))]

    def text(self, name: str) -> str:
        """Return what an element says, as it is laid out; empty while it is hidden."""
        return str(self.driver.find_element("id", name).text)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until ``condition`` gives something true."""
        from selenium.common.exceptions import StaleElementReferenceException

        for _ in range(LOOKS):
            with contextlib.suppress(StaleElementReferenceException):  # the page redrew it in between
                if found := condition():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"{what}: the page says {self.text('main')!r}")


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def full(**changes: Any) -> Any:
    """A status with something in every part of the page."""
    wall = time.time()
    times = np.random.default_rng(0).gamma(4.0, 1.0, 500)
    edges = tuple(float(edge) for edge in np.geomspace(0.5, 100, 24))
    counts = np.bincount(np.searchsorted(edges, times), minlength=len(edges) + 1)
    walls = tuple(wall - 60 + second for second in range(60))
    series = Series(wall=walls, values=(*(0.5 + 0.01 * (second % 7) for second in range(58)), None, 0.5), baseline=0.56)
    fields: dict[str, Any] = {
        "counts": Counts(produced=12_345, processed=12_300, dropped=40, failed=4, waiting=1),
        "latency": {"classify": summarize(times), "vg": summarize(3 * times)},
        "histograms": {"classify": Histogram(edges=edges, counts=tuple(counts.tolist()), total=float(times.sum()))},
        "gini": {"vg": series, "ig": series},
        "road": {"vg": series},
        "confidence": series,
        "drift": {
            "gini vg": DriftState(drifted=True, p_value=0.0001, threshold=0.01, window=50, since_wall=wall),
            "confidence": DriftState(drifted=False, p_value=None, threshold=0.01, window=50),
        },
        "step": 2,
        "step_name": "no ROAD, no IG, no SG",
        "saliency_method": "ig",
        "device": DeviceReadings(hottest_celsius=51.5, power_watts=7.62, throttled=True, throttle_reasons=("oc1",)),
        "log": {"path": "audit.log", "acknowledged": 12_290.0, "pending": 9.0, "lost": 1.0, "error": None},
        "events": ((wall - 5, "degraded", "first"), (wall, "drift", "<b>second</b>")),
    }
    return running(**{**fields, **changes})


@pytest.fixture
def live(tmp_path: Path) -> LiveWriter:
    writer = LiveWriter(tmp_path)
    writer.write(full(), {"frame.jpg": jpeg((200, 30, 30)), "overlay.jpg": jpeg((30, 30, 200))})
    return writer


def test_every_part_shows_what_the_loop_says(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: browser.text("label") == "stop", "prediction")
        assert (browser.text("bundle"), browser.text("probability")) == ("natural", "97.0 %")
        assert browser.text("state") == "running"
        assert "camera:0 · cpu · manifest abababababab" in browser.text("origin")
        for part, words in {
            "tiles": ["12,300", "40", "degradation step 2", "no ROAD, no IG, no SG", "Gini, Vanilla Gradient"],
            "percentiles": ["p50", "p95", "p99", "longest"],
            "gini-legend": ["Vanilla Gradient", "Integrated Gradients", "desktop 0.560"],
            "road-legend": ["desktop 0.560"],
            "drift": ["drifted", "p < 0.001", "Confidence", "collecting"],
            "device": ["51.5 °C", "7.62 W", "yes: oc1"],
            "log": ["audit.log", "12,290"],
            "events": ["degraded: first", "drift: <b>second</b>"],
        }.items():
            for word in words:
                assert word in browser.text(part), part
        assert browser.text("events").index("second") < browser.text("events").index("first"), "newest first"
        assert browser.run("document.querySelectorAll('#histogram rect').length") > 5
        assert browser.run("document.querySelectorAll('#gini path.line:not(.faint)').length") == 2
        assert browser.run("document.querySelectorAll('#gini line.baseline').length") == 2
        assert browser.complaints() == []
        elsewhere = [url for url in browser.requests() if not url.startswith(f"http://127.0.0.1:{visitor.port}/")]
        assert elsewhere == []


def test_missing_readings_are_dashes_and_empty_parts_say_so(browser: Window, tmp_path: Path) -> None:
    LiveWriter(tmp_path).write(running(state="starting", shown=None, frames_per_second=None, last_frame_wall=None))
    with serving(tmp_path) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: browser.text("state") == "starting", "state")
        assert browser.text("notice") == "The model is being loaded."
        assert browser.text("no-picture") == "No picture yet"
        assert browser.run("document.querySelectorAll('#device .missing').length") == 10
        assert "0" not in browser.text("device")
        for part, text in (("histogram", "No latency yet"), ("gini", "No Gini yet"), ("events", "None so far.")):
            assert text in browser.text(part)
        assert browser.complaints() == []


def test_it_follows_the_loop_and_shows_saliency_when_asked(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: browser.run("document.getElementById('frame').naturalWidth") == 64, "frame")
        live.write(
            full(shown=Shown(frame_id="f2", label="yield", prediction=13, probability=0.5)),
            {"frame.jpg": jpeg((30, 200, 30), (80, 60))},
        )
        browser.until(lambda: browser.text("label") == "yield", "new prediction")
        browser.until(lambda: browser.run("document.getElementById('frame').naturalWidth") == 80, "new frame")
        assert not browser.driver.find_element("id", "overlay").is_displayed()
        assert browser.text("overlay-name") == "Integrated Gradients"
        browser.driver.find_element("id", "overlay-on").send_keys(" ")  # by keyboard
        browser.until(lambda: browser.driver.find_element("id", "overlay").is_displayed(), "overlay")
        assert not browser.driver.find_element("id", "frame").is_displayed()
        assert browser.complaints() == []


def test_a_stage_can_be_chosen_and_stays(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: "ms" in browser.text("percentiles"), "latency")
        before = browser.text("percentiles")
        browser.driver.find_element("id", "stage").send_keys("Vanilla")
        browser.until(lambda: browser.text("percentiles") != before, "another stage")
        live.write(full(step=3))
        browser.until(lambda: "degradation step 3" in browser.text("tiles"), "next status")
        assert browser.run("document.getElementById('stage').value") == "vg"


def test_staleness_is_said_and_ends(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: browser.text("state") == "running", "running")
        live.write(full(boot_monotonic=time.monotonic() - 30))
        browser.until(lambda: browser.text("state") == "stale", "stale")
        assert "The vehicle loop has written nothing since" in browser.text("notice")
        assert browser.run("document.body.classList.contains('old')")
        live.write(full(state="waiting", message="/dev/video0 is gone"))
        browser.until(lambda: browser.text("state") == "waiting", "waiting")
        assert browser.text("notice") == "The vehicle loop is waiting: /dev/video0 is gone."
        live.write(full())
        browser.until(lambda: browser.text("state") == "running", "recovered")
        assert browser.text("notice") == ""
        live.write(full(state="stopped", boot_monotonic=0.0))
        browser.until(lambda: browser.text("state") == "stopped", "stopped")


def test_a_restart_of_the_server_is_survived(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: browser.text("state") == "running", "running")
    browser.until(lambda: browser.text("state") == "connection lost", "lost")
    assert "The server has not answered since" in browser.text("notice")
    assert browser.text("label") == "stop", "what was last seen stays"
    live.write(full(shown=Shown(frame_id="f9", label="after the restart", prediction=1, probability=0.5)))
    with serving(live.folder, port=visitor.port):
        browser.until(lambda: browser.text("state") == "running", "back")
        assert browser.text("label") == "after the restart"
        assert browser.text("notice") == ""


def test_login_with_the_token(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder, TOKEN) as visitor:
        home = f"http://127.0.0.1:{visitor.port}/"
        browser.visit(home)
        assert browser.driver.current_url == f"{home}login"
        assert not browser.driver.find_element("id", "wrong").is_displayed()
        browser.driver.find_element("id", "token").send_keys("wrong\n")
        browser.until(lambda: browser.driver.current_url.endswith("#wrong"), "refusal")
        assert browser.text("wrong") == "This is not the server's token."
        browser.driver.find_element("id", "token").send_keys(f"{TOKEN.secret}\n")
        browser.until(lambda: browser.driver.current_url == home, "entrance")
        browser.until(lambda: browser.text("label") == "stop", "page")
        assert TOKEN.secret not in "".join(browser.requests())
        assert browser.run("document.cookie") == "", "scripts cannot read the session"
    with serving(live.folder, TOKEN, port=visitor.port):
        browser.until(lambda: browser.text("state") == "running", "the login outlives a restart")
        browser.driver.delete_all_cookies()
        browser.until(lambda: browser.driver.current_url == f"{home}login", "back to the login")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(scheme: str, browser: Window, live: LiveWriter) -> None:
    emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    long_name = "a-bundle-with-a-very-long-name-of-one-word-0123456789"
    shown = Shown(
        frame_id="/camera/front/" + "0" * 60, label="no vehicles over 3.5 tonnes", prediction=1, probability=1.0
    )
    live.write(full(bundle=long_name, source="/very/long/path" * 5, shown=shown, log={"path": "/data/" + "x" * 80}))
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/", PHONE)
        browser.until(lambda: browser.text("label") == shown.label, "page")
        assert browser.run("document.documentElement.scrollWidth") <= ON_THE_SMALLEST_PHONE
        wide = (
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.hidden') && "
            "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert browser.run(wide) == []
        assert poor_contrast(browser) == []


CONTRASTS = """
(() => {
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const below = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll('body *')].filter((e) => own(e) && e.getClientRects().length).map((e) => {
    const ink = getComputedStyle(e)[e instanceof SVGElement ? 'fill' : 'color'];
    const [a, b] = [light(parse(ink).slice(0, 3)), light(below(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 30)];
  }).filter(([ratio]) => ratio < 4.5);
})()
"""


def poor_contrast(browser: Window) -> list[Any]:
    """Return the texts whose contrast is below WCAG 2.2 AA's 4.5."""
    found: list[Any] = browser.run(CONTRASTS.strip())
    return found


def test_everything_has_a_name_for_those_who_listen(browser: Window, live: LiveWriter) -> None:
    with serving(live.folder) as visitor:
        browser.visit(f"http://127.0.0.1:{visitor.port}/")
        browser.until(lambda: browser.text("label") == "stop", "page")
        nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    needy = {"image", "button", "checkbox", "combobox", "link", "meter", "region", "switch", "textbox", "heading"}
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    found = [(role, name) for role, name in roles if role in needy]
    assert {"checkbox", "combobox", "image", "region"} <= {role for role, _ in found}
    assert [role for role, name in found if not name.strip()] == []
