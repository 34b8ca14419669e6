"""Every view of the inspector against the numbers that it shows."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, Route, expect

from cellwright.look.inspection import Inspection
from cellwright.look.reading import Change
from cellwright.look.web.inspect import InspectServer
from cellwright.look.web.report import write_report

from .axe import assert_accessible
from .runs import make_run

pytestmark = pytest.mark.browser
STEPS = 150
NOON = datetime.datetime(2026, 1, 1, 12)
# What a view shows when it is complete.
COMPLETE = {
    "Text": ".units li",
    "Heat map": "canvas.heat[data-shown]",
    "Saturation": ".gate",
    "Gradient flow": ".text.few",
    "Next token": ".bars",
    "Type": ".typed[data-shown]",
    "Intervene": "#all-units",
}


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    run = make_run(tmp_path_factory.mktemp("inspect"))
    return Inspection(run, run.held_out_text(STEPS), steps=STEPS)


@pytest.fixture
def opened(page: Page, inspection: Inspection, serve_routes: Callable) -> Page:
    page.goto(serve_routes(InspectServer(inspection, inspection).routes()))
    expect(page.get_by_role("tab")).to_have_count(7)
    return page


@pytest.fixture(scope="module")
def report_file(inspection: Inspection, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(inspection, path)
    return path


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def read_answers(page: Page) -> None:
    """Return when the page has read every answer that came before.

    `wait_for_load_state("networkidle")` waits no longer where it was idle before.
    """
    page.evaluate("fetch('/api/0/order/0.c/index').then((answer) => answer.json())")


def number_in(text: str) -> float:
    text = text.replace("−", "-")
    found = re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)
    return float(found[-1])


def test_a_hovered_token_tells_its_value(opened: Page, inspection: Inspection):
    opened.get_by_label("Value", exact=True).select_option("1.f")
    opened.get_by_label("Unit", exact=True).fill("5")
    opened.get_by_label("Unit", exact=True).press("Enter")
    told = opened.locator(".readout")
    for step in (3, 40, 90):
        opened.locator(f'.text span[data-step="{step}"]').hover()
        expect(told).to_contain_text(f"Unit 5 of f of layer 1, step {step},")
        shown = number_in(told.inner_text())
        assert shown == pytest.approx(inspection.values("1.f")[step, 5], abs=1e-3)


def test_it_opens_on_the_best_unit(opened: Page, inspection: Inspection):
    best = inspection.best()
    assert best is not None
    expect(opened.get_by_label("Value", exact=True)).to_have_value(best["key"])
    expect(opened.get_by_label("Unit", exact=True)).to_have_value(str(best["unit"]))
    expect(opened.get_by_label("Detector")).to_have_value(best["detector"])


def test_arrow_keys_step_through_units_and_steps(opened: Page):
    opened.get_by_label("Unit", exact=True).fill("0")
    opened.get_by_label("Unit", exact=True).press("Enter")
    opened.locator(".text").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "ArrowRight"):
        opened.keyboard.press(key)
    expect(opened.locator(".readout")).to_contain_text("Unit 1 of")
    expect(opened.locator(".readout")).to_contain_text("step 2,")


def test_tokens_have_the_colour_of_their_value(opened: Page, inspection: Inspection):
    opened.get_by_label("Value", exact=True).select_option("0.c")
    opened.get_by_label("Unit", exact=True).fill("3")
    opened.get_by_label("Unit", exact=True).press("Enter")
    told = inspection.values("0.c")[:, 3]
    for by_unit in (False, True):
        opened.get_by_label("a scale for each unit").set_checked(by_unit)
        expect(opened.locator(".legend")).to_contain_text(
            "unit 3 of c of layer 0" if by_unit else "c of layer 0"
        )
        shown = f"0.c 3 {str(by_unit).lower()}"
        expect(opened.locator(".text")).to_have_attribute("data-shown", shown)
        low, high = scale_ends(inspection, "0.c", 3 if by_unit else None)
        for step in (5, 17, 60):
            style = opened.locator(f'.text span[data-step="{step}"]').evaluate(
                "span => getComputedStyle(span).backgroundColor"
            )
            rgb = np.array([int(v) for v in re.findall(r"\d+", style)][:3])
            value = value_of(rgb, legend_colours(opened), low, high)
            expected = np.clip(told[step], low, high)
            assert value == pytest.approx(expected, abs=(high - low) / 100)


def scale_ends(
    inspection: Inspection, key: str, unit: int | None
) -> tuple[float, float]:
    """Where the colours end: as far to both sides where the value has both signs."""
    low, high = np.quantile(inspection.values(key), [0.01, 0.99])
    signed = low < 0 < high
    if unit is not None:
        low, high = np.quantile(inspection.values(key)[:, unit], [0.01, 0.99])
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    return float(low), float(high)


def legend_colours(page: Page) -> np.ndarray:
    """(256, 3), off the scale that the page shows."""
    flat = page.locator(".scale").first.evaluate(
        'c => [...c.getContext("2d").getImageData(0, 0, 256, 1).data]'
    )
    return np.array(flat).reshape(256, 4)[:, :3]


def value_of(rgb: np.ndarray, colours: np.ndarray, low: float, high: float) -> float:
    level = np.abs(colours - rgb).sum(1).argmin()
    return low + level / 255 * (high - low)


def test_heat_map_pixels_have_the_colour_of_their_value(
    opened: Page, inspection: Inspection
):
    open_tab(opened, "Heat map")
    opened.get_by_label("Order of units").select_option("variance")
    opened.get_by_label("Value", exact=True).select_option("1.c")
    canvas = opened.locator("canvas.heat")
    expect(canvas).to_have_attribute("data-shown", re.compile("^1.c variance "))
    order, told = inspection.order("1.c", "variance"), inspection.values("1.c")
    colours = legend_colours(opened)
    for by_unit in (True, False):
        opened.get_by_label("a scale for each unit").set_checked(by_unit)
        expect(canvas).to_have_attribute("data-scale", "unit" if by_unit else "all")
        for step, row in ((0, 0), (77, 3), (149, 15)):
            pixel = canvas.evaluate(
                "(c, [x, y]) => [...c.getContext('2d').getImageData(x, y, 1, 1).data]",
                [step, row],
            )
            low, high = scale_ends(inspection, "1.c", order[row] if by_unit else None)
            value = value_of(np.array(pixel[:3]), colours, low, high)
            expected = np.clip(told[step, order[row]], low, high)
            assert value == pytest.approx(expected, abs=(high - low) / 90)


def test_the_map_opens_in_clusters_with_labelled_axes(
    opened: Page, inspection: Inspection
):
    open_tab(opened, "Heat map")
    expect(opened.get_by_label("Order of units")).to_have_value("cluster")
    opened.get_by_label("Value", exact=True).select_option("1.c")
    canvas = opened.locator("canvas.heat")
    expect(canvas).to_have_attribute("data-shown", re.compile("^1.c cluster "))
    units = opened.locator(".ticks.upright span").all_text_contents()
    assert units == [str(u) for u in inspection.order("1.c", "cluster")[::2]]
    steps = opened.locator(".ticks.along span").all_text_contents()
    assert steps[:3] == ["0", "10", "20"]
    for title in ("unit", "step: a token of the text"):
        expect(opened.locator(".axes .title").get_by_text(title)).to_be_visible()


def test_a_recoloured_map_has_the_colours_of_its_new_values(
    opened: Page, inspection: Inspection
):
    open_tab(opened, "Heat map")
    opened.get_by_label("Order of units").select_option("index")
    opened.get_by_label("a scale for each unit").uncheck()
    canvas = opened.locator("canvas.heat")
    for key in ("1.c", "0.f", "1.h", "0.f"):
        opened.get_by_label("Value", exact=True).select_option(key)
        expect(canvas).to_have_attribute("data-shown", re.compile(f"^{key} index "))
        told, colours = inspection.values(key), legend_colours(opened)
        for step, unit in ((1, 2), (60, 9), (149, 15)):
            pixel = canvas.evaluate(
                "(c, [x, y]) => [...c.getContext('2d').getImageData(x, y, 1, 1).data]",
                [step, unit],
            )
            low, high = scale_ends(inspection, key, None)
            value = value_of(np.array(pixel[:3]), colours, low, high)
            expected = np.clip(told[step, unit], low, high)
            assert value == pytest.approx(expected, abs=(high - low) / 90)


def test_the_crosshair_tells_unit_step_and_value(opened: Page, inspection: Inspection):
    open_tab(opened, "Heat map")
    opened.get_by_label("Order of units").select_option("index")
    opened.get_by_label("Value", exact=True).select_option("0.h")
    opened.get_by_label("Unit", exact=True).fill("0")
    opened.get_by_label("Unit", exact=True).press("Enter")
    canvas = opened.locator("canvas.heat")
    expect(canvas).to_have_attribute("aria-label", re.compile("^h of layer 0"))
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        opened.keyboard.press(key)
    expect(opened.locator(".readout")).to_contain_text(
        "Unit 2 of h of layer 0, step 2,"
    )
    shown = number_in(opened.locator(".readout").inner_text())
    assert shown == pytest.approx(inspection.values("0.h")[2, 2], abs=1e-3)


def test_interesting_units_are_ranked_and_open(opened: Page, inspection: Inspection):
    opened.get_by_label("Detector").select_option("indentation")
    best = inspection.interesting("indentation")["units"][0]
    first = opened.locator(".units li").first
    expect(first).to_contain_text(
        f"{best['key']} unit {best['unit']} {best['bits']:.2f} bits"
    )
    first.get_by_role("button").click()
    expect(opened.get_by_label("Value", exact=True)).to_have_value(best["key"])
    opened.get_by_label("Detector").select_option("pattern")
    opened.get_by_label("Regular expression").fill("say")
    opened.get_by_label("Regular expression").press("Enter")
    best = inspection.interesting("pattern", "say")["units"][0]
    expect(opened.locator(".units li").first).to_contain_text(
        f"{best['bits']:.2f} bits"
    )


def test_a_late_answer_about_another_detector_is_not_shown(
    opened: Page, inspection: Inspection
):
    units = opened.locator(".units li")
    expect(units).not_to_have_count(0)  # the first detector has been answered
    held: list[Route] = []
    opened.route("**/interesting/indentation", lambda route: held.append(route))
    opened.get_by_label("Detector").select_option("indentation")
    expect(units).to_have_count(0)
    opened.get_by_label("Detector").select_option("position in line")
    best = inspection.interesting("position in line")["units"][0]
    told = f"{best['key']} unit {best['unit']} {best['bits']:.2f} bits"
    expect(units.first).to_contain_text(told)
    with opened.expect_response("**/interesting/indentation"):
        held[0].continue_()
    read_answers(opened)
    expect(units.first).to_contain_text(told)


def test_what_failed_is_asked_again(opened: Page, inspection: Inspection):
    units = opened.locator(".units li")
    expect(units).not_to_have_count(0)  # the first detector has been answered
    first = opened.get_by_label("Detector").input_value()
    path = "**/interesting/indentation"
    opened.route(path, lambda r: r.fulfill(status=400, json={"error": "busy"}))
    opened.get_by_label("Detector").select_option("indentation")
    expect(opened.get_by_role("alert")).to_have_text("busy")
    opened.unroute(path)
    opened.get_by_label("Detector").select_option(first)
    expect(units).not_to_have_count(0)
    opened.get_by_label("Detector").select_option("indentation")
    best = inspection.interesting("indentation")["units"][0]
    expect(units.first).to_contain_text(f"{best['key']} unit {best['unit']} ")


def test_a_late_view_leaves_the_one_that_was_opened_since(opened: Page):
    held: list[Route] = []
    opened.route("**/api/*/flow", lambda route: held.append(route))
    opened.clock.install(time=NOON)
    opened.clock.pause_at(NOON + datetime.timedelta(hours=1))
    open_tab(opened, "Gradient flow")
    open_tab(opened, "Next token")
    expect(opened.get_by_text("surprisal, nats")).to_be_visible()
    opened.clock.run_for(10_000)  # long enough to say that it computes
    expect(opened.get_by_text("surprisal, nats")).to_be_visible()
    expect(opened.get_by_role("status")).to_be_empty()
    with opened.expect_response("**/api/*/flow"):
        held[0].continue_()
    read_answers(opened)
    expect(opened.get_by_text("surprisal, nats")).to_be_visible()


def test_keys_on_a_map_that_is_not_drawn_yet_choose_nothing(opened: Page):
    unit = opened.get_by_label("Unit", exact=True).input_value()
    held: list[Route] = []
    drawn = False
    opened.route(
        "**/api/*/order/*/cluster",
        lambda route: route.continue_() if drawn else held.append(route),
    )
    open_tab(opened, "Heat map")
    canvas = opened.locator("canvas.heat")
    canvas.focus()
    opened.keyboard.press("ArrowDown")
    expect(opened.get_by_label("Unit", exact=True)).to_have_value(unit)
    drawn = True
    for route in held:
        route.continue_()
    expect(canvas).to_have_attribute("data-shown", re.compile(" cluster "))


def test_writing_that_is_started_again_writes_one_token_at_a_time(opened: Page):
    open_tab(opened, "Type")
    held: list[Route] = []
    asked: list[str] = []
    path = "**/api/live/sample"
    opened.route(path, lambda r: r.continue_() if held else held.append(r))
    opened.on("request", lambda r: asked.append(r.url))
    opened.clock.install(time=NOON)
    opened.clock.pause_at(NOON + datetime.timedelta(hours=1))
    for name in ("Write", "Pause", "Write"):
        opened.get_by_role("button", name=name).click()
    read_answers(opened)
    held[0].continue_()
    typed = opened.locator(".typed")
    # A line's end to begin with, and a token of either start.
    expect(typed).to_have_attribute("data-shown", re.compile("^3 "))
    read_answers(opened)
    opened.clock.run_for(100)  # the pause between two tokens
    expect(typed).to_have_attribute("data-shown", re.compile("^4 "))
    read_answers(opened)
    assert sum(url.endswith("/sample") for url in asked) == 3


def test_saturation_of_two_models_side_by_side(opened: Page, inspection: Inspection):
    open_tab(opened, "Saturation")
    gates = inspection.saturation()
    expect(opened.locator(".gate")).to_have_count(2 * len(gates))
    titles = opened.locator(".gate").first.locator("circle title").all_text_contents()
    mean = inspection.values(gates[0]["key"]).mean(0)
    assert [number_in(t) for t in titles] == pytest.approx(mean.tolist(), abs=1e-3)


def test_the_memory_is_told_of_the_gate_that_keeps(
    opened: Page, inspection: Inspection
):
    open_tab(opened, "Saturation")
    for gate in inspection.saturation():
        card = opened.locator(".gate").filter(
            has=opened.locator("strong", has_text=re.compile(f"^{gate['key']}$"))
        )
        told = card.first.get_by_text("Implied memory")
        if not gate["key"].endswith(".f"):
            expect(told).to_have_count(0)
            continue
        mean = inspection.values(gate["key"]).mean(0, dtype="float64")
        longest, unit = 1 / (1 - mean.max()), mean.argmax()
        shown = f"{longest:.{0 if longest >= 10 else 2}f}"
        expect(told).to_contain_text("The old c is multiplied by f")
        expect(told).to_contain_text(f"unit {unit}: {shown}")


def test_the_memory_of_leaky_units_is_a_number(
    page: Page, tmp_path: Path, serve_routes: Callable
):
    run = make_run(tmp_path, "leaky_rnn", layers=1)
    leaky = Inspection(run, run.held_out_text(20), steps=20)
    page.goto(serve_routes(InspectServer(leaky, None).routes()))
    open_tab(page, "Saturation")
    expect(page.get_by_text("The old h is multiplied by 0.9")).to_contain_text(
        "is 10 steps"
    )


def test_gradient_flow_says_its_half_life(opened: Page, inspection: Inspection):
    open_tab(opened, "Gradient flow")
    flow = inspection.flow()
    life = flow["half_lives"]["1.c"]
    word = "halves" if life > 0 else "doubles"
    expect(opened.locator(".guide")).to_contain_text(
        f"{word} every {abs(life):.1f} steps"
    )
    expect(opened.locator("svg.plot")).to_have_count(2)


def test_windows_of_training_cut_the_triangle_where_they_end(
    opened: Page, inspection: Inspection
):
    open_tab(opened, "Gradient flow")
    window, reach = 16, inspection.flow()["reach"]
    lines = opened.locator("svg.borders line")
    expect(lines).to_have_count((STEPS - 2) // window)  # none at the start
    box = lines.first.evaluate("line => line.ownerSVGElement.getAttribute('viewBox')")
    assert box == f"0 0 {STEPS - 1} {reach + 1}"
    for n, line in enumerate(lines.all(), start=1):
        x1, y1, x2, y2 = (
            float(line.get_attribute(name) or "nan")
            for name in ("x1", "y1", "x2", "y2")
        )
        # Between (t, k) with t − k = n·window and those with one less: where the pixel
        # (t, k) covers t … t + 1 and k … k + 1, its middle has x − y = t − k.
        assert (x1 - y1, x2 - y2) == (n * window - 0.5, n * window - 0.5)
        assert (y1, y2) == (0, reach + 1)
    opened.get_by_role("tab", name="Text").click()
    opened.locator('.text span[data-step="30"]').hover()
    open_tab(opened, "Gradient flow")
    plot = opened.get_by_role(
        "img", name="Gradient norms of the prediction of token 30"
    )
    expect(plot).to_be_visible()  # it comes after the page's other plots
    marks = plot.locator(".mark")
    at = [float(m.get_attribute("x1") or "nan") for m in marks.all()]
    # Token 30 is predicted at step 29, 13 steps after the border at 16.
    shown = [62 + k / reach * (640 - 62 - 64) for k in np.arange(13.5, reach, window)]
    assert at == pytest.approx(shown)


def test_the_triangle_is_read_by_keys(opened: Page, inspection: Inspection):
    open_tab(opened, "Gradient flow")
    opened.get_by_label("State", exact=True).select_option("0.c")
    canvas = opened.locator("canvas.heat")
    expect(canvas).to_have_attribute("aria-label", re.compile("norm by 0.c"))
    canvas.focus()
    for key in ["ArrowRight"] * 8 + ["ArrowDown"] * 3 + ["ArrowLeft", "ArrowUp"]:
        opened.keyboard.press(key)
    told = opened.locator(".readout")
    expect(told).to_contain_text("Prediction of token 8, ")
    expect(told).to_contain_text(", 3 steps back: ‖∂loss/∂0.c‖ = ")
    low, high, _ = inspection.flow_triangle("0.c")
    norm = inspection.flow_at(8)["0.c"][3]
    width = (high - low) / 254  # of a level
    shown = np.log10(number_in(told.inner_text()))
    assert shown == pytest.approx(np.log10(norm), abs=width + 2e-3)


def test_saturation_is_read_by_keys(opened: Page, inspection: Inspection):
    open_tab(opened, "Saturation")
    gate = inspection.saturation()[0]
    plot = opened.locator(".gate svg").first
    told = opened.locator(".gate .readout").first
    plot.focus()
    by_open = np.argsort(gate["high"], kind="stable").tolist()
    expect(told).to_contain_text(f"unit {by_open[0]}: ")
    for unit in by_open[1:]:
        opened.keyboard.press("ArrowRight")
        expect(told).to_contain_text(f"unit {unit}: ")
    assert number_in(told.inner_text()) == pytest.approx(
        gate["mean"][by_open[-1]], abs=1e-3
    )
    by_shut = np.argsort(gate["low"], kind="stable").tolist()
    for _ in by_shut:
        opened.keyboard.press("ArrowDown")
    expect(told).to_contain_text(f"unit {by_shut[0]}: ")
    expect(plot.locator(".dot.at")).to_have_count(1)
    opened.keyboard.press("Enter")
    expect(opened.get_by_label("Value", exact=True)).to_have_value(gate["key"])
    expect(opened.get_by_label("Unit", exact=True)).to_have_value(str(by_shut[0]))


def test_other_views_go_on_while_the_gradient_flow_is_computed(opened: Page):
    held: list[Route] = []
    opened.route("**/api/*/flow", lambda route: held.append(route))
    open_tab(opened, "Gradient flow")
    expect(opened.get_by_role("status")).to_contain_text("Gradient flow: computing …")
    open_tab(opened, "Heat map")
    expect(opened.locator("canvas.heat")).to_have_attribute(
        "aria-label", re.compile("units over")
    )
    with opened.expect_response("**/api/*/flow"):
        held[0].continue_()
    read_answers(opened)
    expect(opened.get_by_label("Order of units")).to_be_visible()
    expect(opened.get_by_role("status")).to_be_empty()
    open_tab(opened, "Gradient flow")
    expect(opened.locator(".guide")).to_contain_text("In the median prediction")
    assert len(held) == 1


def test_predictions_are_the_models(opened: Page, inspection: Inspection):
    open_tab(opened, "Next token")
    expect(opened.get_by_text("surprisal, nats")).to_be_visible()
    opened.locator('.text span[data-step="30"]').hover()
    told = inspection.predictions()
    expect(opened.locator(".hints")).to_contain_text(
        f"surprisal {told['surprisal'][30]:.2f} nats, rank {told['rank'][30]}"
    )
    chances = opened.locator(".bars .number").all_text_contents()
    expected = [100 * c for c in told["chances"][30]]
    assert [float(c.split()[0]) for c in chances] == pytest.approx(expected, abs=0.051)
    opened.locator('.text span[data-step="30"]').click()
    expect(opened.get_by_text(re.compile("^Token 30, "))).to_be_visible()


def check_typing(page: Page, inspection: Inspection) -> None:
    """Type, take back, write: the shown chances are the model's."""
    open_tab(page, "Type")
    page.get_by_role("textbox", name="Type here").focus()
    page.keyboard.type("say(é")
    expect(page.get_by_text("Unknown to this model: é.")).to_be_visible()
    page.keyboard.press("Backspace")
    expect(page.locator(".typed")).to_have_value("say(")
    expect(page.get_by_text("Unknown to this model")).to_have_count(0)
    tokens = torch.from_numpy(inspection.tokenizer.encode("say("))
    with torch.no_grad():
        logits, _ = inspection.model(tokens[:, None])
    logits = logits[-1, 0].clone()
    logits[inspection.tokenizer.unknown] = -torch.inf
    best = logits.softmax(-1).max().item()
    first = page.locator(".bars .number").first
    expect(first).to_have_text(f"{100 * best:.1f} %")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="One step").click()
    likeliest = inspection.tokenizer.decode([int(logits.argmax())])
    expect(page.locator(".typed")).to_have_value(f"say({likeliest}")
    page.get_by_role("button", name="Write").click()
    expect(page.locator(".typed")).to_have_value(re.compile(r"^say\(.{6}", re.DOTALL))
    page.get_by_role("button", name="Pause").click()
    page.locator(".typed").fill("sa")  # what a phone or an input method does
    tokens = torch.from_numpy(inspection.tokenizer.encode("sa"))
    with torch.no_grad():
        logits = inspection.model(tokens[:, None])[0][-1, 0].clone()
    logits[inspection.tokenizer.unknown] = -torch.inf
    expect(first).to_have_text(f"{100 * logits.softmax(-1).max().item():.1f} %")
    expect(page.locator(".typed")).to_have_value("sa")


def check_intervening(page: Page, inspection: Inspection) -> None:
    open_tab(page, "Intervene")
    page.get_by_label("Value", exact=True).select_option("1.o")
    page.get_by_label("all units").check()
    page.get_by_role("button", name="Read again").click()
    found = inspection.intervene([Change("1.o", "clamp", 0.0)])
    expect(page.locator(".guide")).to_contain_text(
        f"from {found['before']:.3f} to {found['after']:.3f} nats"
    )
    page.get_by_role("button", name="undo").click()
    expect(page.locator(".guide")).to_have_count(0)


def test_a_box_of_the_picture_chooses_the_value(opened: Page):
    box = opened.get_by_role("button", name="Show o", exact=True)
    box.click()
    chosen = opened.get_by_label("Value", exact=True)
    expect(chosen).to_have_value(re.compile(r"^\d\.o$"))
    expect(box).to_have_attribute("aria-pressed", "true")
    open_tab(opened, "Next token")
    opened.get_by_role("button", name="Show f", exact=True).click()
    expect(chosen).to_have_value(re.compile(r"^\d\.f$"))


def test_another_text_is_read_and_shown_in_every_view(opened: Page):
    text = "say(é)\nsay(é)"
    opened.get_by_role("textbox", name="A text of your own").fill(text)
    opened.get_by_role("button", name="Read this text").click()
    expect(opened.locator(".unknowns")).to_contain_text(
        "2 of 13 tokens are unknown to this model"
    )
    expect(opened.locator(".text .unknown")).to_have_text(["é", "é"])
    open_tab(opened, "Type")
    opened.locator(".typed").fill("no")
    expect(opened.locator(".typed")).to_have_attribute("data-shown", re.compile("^2 "))
    opened.get_by_role("button", name="Use this in all views").click()
    expect(opened.locator(".text span")).to_have_text(["n", "o"])
    open_tab(opened, "Next token")
    expect(opened.locator(".text span")).to_have_count(2)
    opened.get_by_role("textbox", name="A text of your own").fill("")
    with opened.expect_response(lambda r: r.status == 400):
        opened.get_by_role("button", name="Read this text").click()
    expect(opened.get_by_role("alert")).to_contain_text("has nothing to predict")


def check_span(page: Page, inspection: Inspection) -> None:
    """By keys, and by the pointer: the same units, on in the span and off beside it."""
    page.get_by_label("Value", exact=True).select_option("1.h")
    page.locator('.text span[data-step="20"]').hover()
    page.locator(".text").focus()
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".text")).to_have_attribute("data-span", "20 22 1.h")
    found = page.locator(".hints").get_by_text(re.compile(r"^“.*steps 20 to 22"))
    expect(found).to_be_visible()
    values = inspection.values("1.h")
    listed = page.locator(".span-units li").all_text_contents()
    assert listed
    for line in listed:
        unit, end = int(line.split()[1]), line.split()[2]
        own = values[:, unit] * (1 if end == "high" else -1)
        assert own[20:23].min() > max(own[19], own[23])
    page.locator(".text").evaluate(
        """box => {
          const at = (step) => box.querySelector(`[data-step="${step}"]`).firstChild;
          box.dispatchEvent(new Event("selectstart", { bubbles: true }));
          getSelection().setBaseAndExtent(at(20), 0, at(21), 1);
        }"""
    )
    expect(page.locator(".text")).to_have_attribute("data-span", "20 21 1.h")
    expect(page.locator(".text .span")).to_have_count(2)


def test_a_span_of_the_text_has_its_units(opened: Page, inspection: Inspection):
    check_span(opened, inspection)


def test_typing_on_the_server(opened: Page, inspection: Inspection):
    check_typing(opened, inspection)


def test_intervening_on_the_server(opened: Page, inspection: Inspection):
    check_intervening(opened, inspection)


@pytest.fixture
def report(page: Page, report_file: Path) -> Page:
    page.goto(report_file.as_uri())
    expect(page.get_by_role("tab")).to_have_count(7)
    return page


def test_a_report_types_and_generates_from_the_disk(
    report: Page, inspection: Inspection
):
    check_span(report, inspection)
    check_typing(report, inspection)
    check_intervening(report, inspection)
    expect(report.get_by_role("button", name="Use this in all views")).to_have_count(0)
    expect(report.get_by_role("button", name="Read this text")).to_have_count(0)


def test_a_report_shows_every_view(report: Page, inspection: Inspection):
    for name in ("Heat map", "Saturation", "Gradient flow", "Next token", "Text"):
        open_tab(report, name)
    report.get_by_label("Value", exact=True).select_option("1.c")
    report.locator('.text span[data-step="20"]').hover()
    expect(report.locator(".readout")).to_contain_text("of c of layer 1, step 20,")
    unit = int(report.get_by_label("Unit", exact=True).input_value())
    told = inspection.values("1.c")[:, unit]
    shown = number_in(report.locator(".readout").inner_text())
    assert shown == pytest.approx(told[20], abs=float(np.ptp(told)) / 255 + 1e-3)


def test_wrong_input_is_explained_on_the_page(opened: Page):
    # Its answer starts another look at what is chosen by then.
    expect(opened.locator(".units li")).not_to_have_count(0)
    opened.get_by_label("Detector").select_option("pattern")
    opened.get_by_label("Regular expression").fill("(")
    with opened.expect_response(lambda r: r.status == 400):
        opened.get_by_label("Regular expression").press("Enter")
    expect(opened.get_by_role("alert")).to_contain_text("expected a regular expression")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible(opened: Page, scheme):
    opened.emulate_media(color_scheme=scheme)
    expect(opened.get_by_role("tab")).to_have_text(list(COMPLETE))
    for tab, complete in COMPLETE.items():
        open_tab(opened, tab)
        expect(opened.locator(complete).first).to_be_visible()
        assert_accessible(opened)


def test_the_page_is_one_file_that_asks_nobody(browser: Browser, report_file: Path):
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(report_file.as_uri())
    expect(page.get_by_role("tab")).to_have_count(7)
    assert [u for u in asked if not u.startswith("data:")] == [report_file.as_uri()]
    context.close()
