"""The inspector's page: first paint, recolouring, sorting, a key typed.

    python benchmarks/inspector.py --json benchmarks/results/inspector.json
    python benchmarks/inspector.py --hidden 256 --steps 500 --rounds 3

An untrained LSTM of 1024 units reads 2000 characters of the standard library. Every
round is a new `cellwright inspect` and a new page in Chromium, so that nothing is kept
from the last one. Times are the page's own clock's: from the navigation or the event to
the end of the frame that shows what was asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
from playwright.sync_api import Browser, Page, sync_playwright

LIMITS = {  # milliseconds: what was asked for; the text is not drawn on a canvas
    "first paint, text": 1000,
    "first paint, heat map": 1000,
    "recolour the map: another value": 33,
    "recolour the map: a value seen before": 33,
    "sort the map's units": 33,
    "a key typed": 50,
}
ORDERS = ("variance", "saturation", "time constant", "index", "cluster")
VALUES = ("0.f", "0.i", "0.g", "0.o", "0.h")  # after 0.c
KEYS = "def read(self):"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]

# In the page: when the frame after a change of `data-shown` has been made.
CLOCK = """
window.after = (done) => requestAnimationFrame(() => {  // the task after a frame's own
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => done(performance.now());
  port2.postMessage(0);
});
window.shown = new Promise((resolve) => {
  const look = () => {
    if (document.querySelector("[data-shown]")) after(resolve);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
});
window.until = (act) => new Promise((resolve) => {
  const watch = new MutationObserver(() => {
    watch.disconnect();
    after((end) => resolve(end - start));
  });
  watch.observe(document.body, { subtree: true, attributeFilter: ["data-shown"] });
  const start = performance.now();
  act();
});
window.choose = (label, value) => until(() => {
  const menu = document.querySelector(`select[aria-label="${label}"]`);
  menu.value = value;
  menu.dispatchEvent(new Event("change"));
});
window.press = (selector, key) => until(() => {
  const options = { key, bubbles: true, cancelable: true };
  document.querySelector(selector).dispatchEvent(new KeyboardEvent("keydown", options));
});
window.type = (key) => until(() => {
  const field = document.querySelector(".typed");
  field.value += key;
  field.dispatchEvent(new Event("input"));
});
"""


def make_run(folder: Path, hidden: int) -> Path:
    """A run of one optimiser step, which leaves the weights nearly as drawn."""
    from accelerate import Accelerator

    from cellwright import cells
    from cellwright.text.job import train_run
    from cellwright.text.run import Run, Settings, create_run

    text = folder / "text.txt"
    library = Path(sysconfig.get_paths()["stdlib"])
    text.write_text((library / "argparse.py").read_text("utf-8"))
    settings = Settings(hidden=hidden, steps=1, batch=1, window=8, lr=1e-6)
    create_run(folder / "run", [str(text)], cells.get("lstm"), settings)
    train_run(Run(folder / "run"), Accelerator(cpu=True))
    return folder / "run"


class Server:
    """`cellwright inspect` until it is closed; `ready_s`: when it printed its URL."""

    def __init__(self, run: Path, steps: int) -> None:
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cellwright", "inspect", str(run)),
                *("--steps", str(steps), "--no-browser"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("http://"):
                self.address = line.split()[0]
                break
        else:
            raise RuntimeError("cellwright inspect ended without an address")
        self.ready_s = time.perf_counter() - start

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def measure(browser: Browser, run: Path, steps: int) -> dict[str, list[float]]:
    """One round: every figure's times, in milliseconds."""
    found: dict[str, list[float]] = {}
    for view, name in (("text", "text"), ("heat", "heat map")):
        server = Server(run, steps)
        found.setdefault("server ready", []).append(1000 * server.ready_s)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(CLOCK)
        try:
            page.goto(f"{server.address}#{view}")
            found[f"first paint, {name}"] = [page.evaluate("shown")]
            page.wait_for_load_state("networkidle")
            found |= in_text(page) if view == "text" else in_map(page)
        finally:
            page.close()
            server.close()
    return found


def in_text(page: Page) -> dict[str, list[float]]:
    unit = page.get_by_label("Unit", exact=True)
    unit.fill("1")
    unit.press("Enter")
    page.wait_for_load_state("networkidle")
    press = "([selector, key]) => press(selector, key)"
    units = [page.evaluate(press, [".text", "ArrowDown"]) for _ in range(7)]
    page.get_by_role("tab", name="Type").click()
    page.wait_for_selector(".typed")
    page.wait_for_load_state("networkidle")
    keys = [page.evaluate("(key) => type(key)", key) for key in KEYS]
    return {"recolour the text: the next unit": units, "a key typed": keys}


def in_map(page: Page) -> dict[str, list[float]]:
    choose = "([label, value]) => choose(label, value)"
    by = "Order of units"
    page.get_by_label("Value", exact=True).select_option("0.c")
    page.wait_for_load_state("networkidle")
    return {
        "sort the map's units": [page.evaluate(choose, [by, o]) for o in ORDERS],
        "recolour the map: another value": [
            page.evaluate(choose, ["Value", v]) for v in VALUES
        ],
        "recolour the map: a value seen before": [
            page.evaluate(choose, ["Value", v]) for v in VALUES
        ],
    }


def summary(name: str, times: list[float]) -> dict[str, Any]:
    return {
        "median_ms": round(statistics.median(times), 1),
        "max_ms": round(max(times), 1),
        "times": len(times),
        "limit_ms": LIMITS.get(name),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hidden", type=int, default=1024, help="units")
    parser.add_argument("--steps", type=int, default=2000, help="tokens read")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit("needs Chromium: apt install chromium, or CHROMIUM=/its/path")

    facts = machine.facts()
    times: dict[str, list[float]] = {}
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = make_run(Path(folder), given.hidden)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        facts["chromium"] = browser.version
        for done in range(1, given.rounds + 1):
            for name, more in measure(browser, run, given.steps).items():
                times.setdefault(name, []).extend(more)
            figures = {name: summary(name, found) for name, found in times.items()}
            report = {
                "machine": facts,
                "units": given.hidden,
                "steps": given.steps,
                "rounds": done,
                "load_average_at_end": [round(v, 2) for v in os.getloadavg()],
                "figures": figures,
            }
            if given.json:  # after every round: a stopped run keeps what it has
                given.json.write_text(json.dumps(report, indent=1) + "\n")
        browser.close()

    for name, figure in figures.items():
        limit = f"   (asked for: {figure['limit_ms']})" if figure["limit_ms"] else ""
        print(f"{name:40}{figure['median_ms']:9.1f} ms{limit}")


if __name__ == "__main__":
    main()
