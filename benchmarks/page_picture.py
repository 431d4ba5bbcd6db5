"""The picture of the server's page in the README: `python -m latentrt.benchmarks.page_picture BUNDLE docs/page.png`.

It starts `latentrt serve`, draws in a headless Chromium as a user would, and takes a screenshot.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

PROMPTS = (
    "a white star on a red background",
    "a green triangle on a white background",
    "a red circle on a blue background",
)
WIDTH, HEIGHT = 1100, 900
PATIENCE = 120_000  # milliseconds: engines open, and a picture is drawn


def main(bundle: Path, output: Path) -> None:
    """Draw each prompt, and write what is on screen then."""
    with _served(bundle) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(url)
        for count, prompt in enumerate(PROMPTS, 1):
            _draw(page, prompt, count)
        page.screenshot(path=output)
        browser.close()


def _draw(page: Page, prompt: str, count: int) -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", "1")
    page.click("#generate")
    expect(page.locator("#history button")).to_have_count(count, timeout=PATIENCE)


@contextmanager
def _served(bundle: Path) -> Iterator[str]:
    """The address of a server that is ready."""
    command = [sys.executable, "-c", "from latentrt.cli import main; main()", "serve", str(bundle)]
    command += ["--port", "0", "--model-name", "demo"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            url = str(json.loads(next(server.stderr))["url"])
            next(line for line in server.stderr if json.loads(line)["event"] == "ready")
            yield url
        finally:
            server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
