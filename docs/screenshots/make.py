"""Take the console's screenshots anew: a lab of its own, calls in every mode, Chromium, each view in both themes.

    make screenshots

Needs Chromium (Debian package chromium) and the test requirements. Writes PNG files beside this one.
"""

# ruff: noqa: INP001, S603, T201 - a script that is run by hand

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu"]
WIDTH = 1360
MOST_OCTETS = 200_000


class Lab:
    """A lab in a folder that goes with it."""

    def __init__(self, folder: Path) -> None:
        self._state = folder / "state"

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run ``imslab`` and return what it printed."""
        command = [sys.executable, "-m", "lab.cli", *arguments, "--state", str(self._state)]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise SystemExit(f"imslab {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def call(self, caller: str, callee: str, *arguments: str) -> str:
        """Place a call and return its Call-ID, also of one that is refused."""
        printed = self.run("call", caller, callee, "--json", *arguments, check=False)
        call_id: str = json.loads(printed)["call_id"]
        return quote(call_id, safe="")


@contextmanager
def running() -> Iterator[Lab]:
    """A lab for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            lab.run("up", "--config", str(ROOT / "config" / "lab.yaml"))
            lab.run("scale", "kms=2")
            yield lab
        finally:
            lab.run("down", check=False)


def settled(page: Page) -> None:
    """Wait until a view shows what it has."""
    expect(page.locator("main h1")).to_be_visible(timeout=60_000)
    expect(page.locator("main .waiting")).to_have_count(0, timeout=60_000)
    page.wait_for_timeout(400)


def shots(lab: Lab) -> Iterator[tuple[str, str, str, int]]:
    """Name, hash, element to press and height of each screenshot; the calls they show are placed first."""
    lab.call("carol", "bob", "--security", "e2e-kms", "--seconds", "1")
    lab.call("alice", "erin", "--security", "e2e-kms", "--seconds", "2")
    lab.call("bob", "carol", "--security", "none", "--seconds", "2")
    e2ae = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "12")
    lab.call("alice", "bob", "--security", "e2e-sdes", "--seconds", "3")
    kms = lab.call("bob", "alice", "--security", "e2e-kms", "--seconds", "3")
    again = lab.call("alice", "bob", "--security", "e2e-kms", "--seconds", "3")
    yield "topology", "/topology", "", 780
    yield "node", "/topology/kms", "", 850
    yield "calls", "/calls", "", 640
    yield "call-e2ae", f"/call/{e2ae}", ".ladder-body .step", 800
    yield "call-kms", f"/call/{kms}?tab=media", "", 850
    yield "trace", f"/call/{e2ae}?tab=trace", "", 850
    yield "statistics", f"/call/{e2ae}?tab=statistics", "", 1000
    yield "compare", f"/compare?a={e2ae}&b={again}", "", 1150
    yield "tickets", "/tickets", "", 640


def main() -> None:
    """Take them all; a picture that has grown too big for a repository is an error."""
    with running() as lab, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        origin, _, token = lab.run("console").strip().partition("/#token=")
        pages: dict[str, Page] = {}
        for theme in ("light", "dark"):
            pages[theme] = chromium.new_context(viewport={"width": WIDTH, "height": 850}, color_scheme=theme).new_page()
            pages[theme].set_default_timeout(60_000)
            pages[theme].goto(f"{origin}/#token={token}")
            settled(pages[theme])
        for name, view, press, height in shots(lab):
            time.sleep(0.5)
            for theme, page in pages.items():
                page.set_viewport_size({"width": WIDTH, "height": height})
                page.evaluate("hash => { location.hash = hash; }", view)
                settled(page)
                if press:
                    page.locator(press).first.dispatch_event("click")
                    settled(page)
                if page.locator(".leg.unknown").count():
                    raise SystemExit(
                        f"{name}: not all of the media was reported; take the pictures on a quieter machine"
                    )
                path = HERE / f"{name}-{theme}.png"
                octets = page.screenshot(path=path)
                print(path.relative_to(ROOT), f"{len(octets) / 1000:.0f} kB")
                if len(octets) > MOST_OCTETS:
                    raise SystemExit(f"{path.name} is larger than {MOST_OCTETS} octets")
        chromium.close()


if __name__ == "__main__":
    main()
