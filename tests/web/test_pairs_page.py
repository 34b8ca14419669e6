"""The page of a run of pairs, and its report, against the inspection itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from playwright.sync_api import Browser, Page, expect

from cellwright import cells
from cellwright.look.pair_inspection import PairInspection
from cellwright.look.web.pairs import PairServer, write_pair_report
from cellwright.text.job import train_run
from cellwright.text.pairs.run import PairRun, create_pair_run
from cellwright.text.pairs.settings import PairSettings

from .axe import assert_accessible

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> PairInspection:
    folder = tmp_path_factory.mktemp("pairs")
    words = ["".join("abc"[n // 3**k % 3] for k in range(4)) for n in range(81)]
    lines = "".join(f"{word}\t{word.upper()}\n" for word in words)
    (folder / "pairs.tsv").write_text(lines)
    settings = PairSettings(hidden=8, embedding=6, steps=30, batch=16, lr=2e-2)
    both = cells.get("gru"), cells.get("bahdanau_gru")
    create_pair_run(folder / "run", [str(folder / "pairs.tsv")], both, settings)
    run = PairRun(folder / "run")
    train_run(run, Accelerator(cpu=True))
    return PairInspection(run)


def assert_shows(page: Page, found: dict) -> None:
    buttons = page.locator(".outputs button")
    expect(buttons).to_have_text([o["text"] or "(empty)" for o in found["outputs"]])
    attention = torch.tensor(found["outputs"][0]["attention"])
    cells_ = page.locator(".attention tbody td")
    expect(cells_).to_have_count(attention.numel())
    for t, s in ((0, 0), (1, 2)):
        told = cells_.nth(t * attention.shape[1] + s).get_attribute("title")
        assert told is not None
        shown = float(told.rpartition(": ")[2])
        assert shown == pytest.approx(attention[t, s].item(), rel=1e-2)


def test_an_input_is_applied(
    page: Page, inspection: PairInspection, serve_routes: Callable
):
    page.goto(serve_routes(PairServer(inspection).routes()))
    assert_shows(page, inspection.look(inspection.inputs[0], 5))
    page.get_by_label("Input", exact=True).fill("cab")
    page.get_by_label("Beam", exact=True).fill("3")
    page.get_by_role("button", name="Apply").click()
    found = inspection.look("cab", 3)
    expect(page.locator(".outputs button")).to_have_count(3)
    assert_shows(page, found)
    page.locator(".outputs button").nth(1).click()
    expect(page.locator(".outputs button").nth(1)).to_have_attribute(
        "aria-pressed", "true"
    )
    rows = page.locator(".attention tbody tr")
    expect(rows).to_have_count(len(found["outputs"][1]["tokens"]))
    page.get_by_label("Decoder: value").select_option("0.z")
    expect(page.get_by_role("img", name="Decoder 0.z: 8 units")).to_be_visible()
    assert_accessible(page)


def test_what_cannot_be_applied_is_told(
    page: Page, inspection: PairInspection, serve_routes: Callable
):
    page.goto(serve_routes(PairServer(inspection).routes()))
    expect(page.locator(".outputs button")).to_have_count(5)
    answer = page.evaluate(
        """async () => (await fetch("/api/look", {method: "POST",
        headers: {"Content-Type": "application/json"},
        body: JSON.stringify({text: "abc", beam: "many"})})).status"""
    )
    assert answer == 400


def test_the_report_is_one_file(
    browser: Browser, inspection: PairInspection, tmp_path: Path
):
    write_pair_report(inspection, tmp_path / "report.html")
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    for number in (0, 1):
        page.get_by_label("Input", exact=True).select_option(inspection.inputs[number])
        assert_shows(page, inspection.look(inspection.inputs[number], 5))
    context.close()
    assert not problems
