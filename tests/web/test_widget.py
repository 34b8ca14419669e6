"""The inspector in a notebook: the bundle under a host like Jupyter's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

import cellwright as cw
from cellwright.language import CellwrightError

from .runs import make_run

pytest.importorskip("anywidget", reason="needs cellwright[widget]")

# What a notebook does with a widget, in short: import its module, give it a model.
HOST = """
async ({ esm, traits }) => {
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  const el = document.body.appendChild(document.createElement("div"));
  await widget.render({ model: { get: (name) => traits[name] }, el });
}
"""


@pytest.mark.browser
def test_the_views_draw_in_a_notebook(page: Page, tmp_path: Path):
    run = make_run(tmp_path)
    widget = cw.look.inspect(run, run.held_out_text(80), beside=run.directory)
    traits = {"report": widget.report, "style": widget.style}
    page.set_content("<!doctype html><title>host</title><p>A notebook</p>")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate(HOST, {"esm": widget._esm, "traits": traits})

    expect(page.get_by_role("tab")).to_have_count(7)
    for name in ("Heat map", "Gradient flow", "Next token", "Intervene", "Saturation"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("alert").filter(has_text=" ")).to_have_count(0)
    gates = json.loads(widget.report)["json"]["saturation"]
    assert set(gates) == {"run", "beside", "constant"}
    expect(page.locator(".gate")).to_have_count(2 * len(gates["run"]))

    page.get_by_role("tab", name="Text").click()
    page.get_by_label("Value", exact=True).select_option("1.c")
    page.locator('.text span[data-step="20"]').hover()
    told = page.locator(".readout")
    expect(told).to_contain_text("of c of layer 1, step 20,")
    c = json.loads(widget.report)["levels"]["values/1.c"]
    assert (c["rows"], c["columns"]) == (16, 80)

    page.get_by_role("tab", name="Type").click()
    page.get_by_role("textbox", name="Type here").focus()
    page.keyboard.type("say(")
    expect(page.locator(".typed")).to_have_value("say(")

    # The host keeps its own look and address.
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert page.evaluate("location.hash") == ""
    assert np.isclose(page.evaluate("document.styleSheets.length"), 0)

    # Where there are no widgets, as in a page of nbconvert's, a frame has the views.
    shown, _ = widget._repr_mimebundle_()
    assert shown["text/plain"] == repr(widget) == "<inspector of run>"
    page.set_content(shown["text/html"])
    expect(page.frame_locator("iframe").get_by_role("tab")).to_have_count(7)


def test_without_the_extra_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellwright.extras.find_spec", lambda name: None)
    with pytest.raises(CellwrightError, match=r"pip install 'cellwright\[widget\]'"):
        cw.look.inspect("anywhere")
