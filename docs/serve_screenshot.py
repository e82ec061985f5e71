"""Take docs/serve.png: `python docs/serve_screenshot.py BUNDLE`.

The loop runs on rendered signs, `roadworthy serve` shows it, and Chromium takes the picture. BUNDLE is one that was
trained on the rendered signs, for instance demo/bundles/natural. After a while fog falls: drift has a reason.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from toolkit.data.rendered import render

OUT = Path(__file__).with_name("serve.png")
FRAMES, SIZE, ROUNDS = 300, 224, 100
CLEAR_ROUNDS = 8
FOG = 0.72
WIDTH = 1280


def main(bundle: str) -> None:
    """Render frames, run loop and server, wait until there is something to see, and save the picture."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        make_frames(folder / "frames")
        watched = ["--source", "frames", "--log", "audit.log", "--live", "live", "--every", "5"]
        stack.enter_context(running(folder, "audit", str(Path(bundle).resolve()), *watched))
        server = stack.enter_context(running(folder, "serve", "live", "--port", "0"))
        address = server.stdout.readline().split()[0]
        driver = stack.enter_context(browser())
        driver.get(address)
        driver.find_element("id", "overlay-on").click()
        # The page's own words for: drift was found, and every chart has its lines.
        drifted = "return document.querySelectorAll('#drift .bad').length > 0"
        WebDriverWait(driver, 600).until(lambda found: found.execute_script(drifted))
        time.sleep(5)
        height = driver.execute_script("return document.documentElement.scrollHeight")
        resize(driver, height)
        time.sleep(2)
        with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)


def make_frames(folder: Path) -> None:
    """Write rendered signs as JPEG, in rounds of the same pictures; after CLEAR_ROUNDS they stand in fog."""
    folder.mkdir()
    images = render(FRAMES, SIZE, np.random.default_rng(7)).images
    for number, pixels in enumerate(images):
        clear = Image.fromarray(pixels)
        foggy = Image.blend(clear, Image.new("RGB", clear.size, (196, 200, 204)), FOG)
        clear.save(folder / f"clear-{number}.jpg", quality=90)
        foggy.save(folder / f"foggy-{number}.jpg", quality=90)
    for turn in range(ROUNDS):
        weather = "clear" if turn < CLEAR_ROUNDS else "foggy"
        for number in range(FRAMES):
            (folder / f"frame-{turn:03}-{number:04}.jpg").hardlink_to(folder / f"{weather}-{number}.jpg")
    for path in [*folder.glob("clear-*"), *folder.glob("foggy-*")]:
        path.unlink()


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Any]:
    """Run a roadworthy command in a folder, beside this process, and end it afterwards."""
    command = [sys.executable, "-c", "from toolkit.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(OUT.parent.parent)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Yield the system's Chromium, headless."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    resize(driver, 900)
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, height: int) -> None:
    metrics = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


if __name__ == "__main__":
    main(sys.argv[1])
