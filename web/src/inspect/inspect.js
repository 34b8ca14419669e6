// The inspector: seven views of one reading, tied by one selection.
import { fail, fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { cellView } from "./cell.js";
import { flowView } from "./flow.js";
import { heatView } from "./heat.js";
import { interveneView } from "./intervene.js";
import { liveView } from "./live.js";
import { nextView } from "./next.js";
import { saturationView } from "./saturation.js";
import { counted, Selection } from "./selection.js";
import { textView } from "./text.js";

/** @typedef {import("./source.js").Source} Source */
/** @typedef {import("./report.js").ReportSource} ReportSource */
/** @typedef {{key: string, layer: number, name: string, size: number, state: boolean, matrix: boolean, gate: boolean, low: number, high: number, usual: [number, number]}} Value usual: where 98 % are; of a matrix the norms of its rows */
/** @typedef {{detector: string, key: string, unit: number, bits: number}} Best */
/** @typedef {{run: string, beside: string | null, cell: string, equations: string[], layers: number, hidden: number, parameters: number, window: number, pieces: string[], unknown: number[], values: Value[], best: Best | null, detectors: string[], orders: string[], nats: number}} Description */
/** @typedef {(text: string, view: string) => Promise<void>} Read another text, and show a view of it */
/** @typedef {{source: Source | ReportSource, run: Description, selection: Selection, go: (view: string) => void, read: Read | null}} Context */

/**
 * A view: its name in the address, its tab, what one sees and may try, whether it shows the
 * selected value, and what draws it.
 * @typedef {{name: string, tab: string, guide: string, ofValue: boolean, draw: (context: Context) => HTMLElement | Promise<HTMLElement>}} View
 */

/** @type {View[]} */
const VIEWS = [
  { name: "text", tab: "Text", ofValue: true, draw: textView,
    guide: "Each token has the colour of one unit once the model has read it. Try the units of the list, or select some text to find the units that are on there." },
  { name: "heat", tab: "Heat map", ofValue: true, draw: heatView,
    guide: "Each row is a unit, each column a token; units that behave alike are neighbours. Look for rows that switch or change slowly; try other values." },
  { name: "saturation", tab: "Saturation", ofValue: false, draw: saturationView,
    guide: "Each dot is a unit of a gate: the more often it is nearly open, the further right; nearly shut, the higher. Try a dot in a corner." },
  { name: "flow", tab: "Gradient flow", ofValue: false, draw: flowView,
    guide: "How much a prediction's loss depends on the state k steps back: a line that falls slowly looks far back. Try a token that the model found hard." },
  { name: "next", tab: "Next token", ofValue: false, draw: nextView,
    guide: "The darker a token, the less the model expected it. Try a dark one: what was likelier? A click, or Enter, shows its gradient flow." },
  { name: "live", tab: "Type", ofValue: true, draw: liveView,
    guide: "Every key is a step of the model; beside are the tokens that it expects next. Try to open a quotation or a line, or let it write." },
  { name: "intervene", tab: "Intervene", ofValue: true, draw: interveneView,
    guide: "A unit, or all of a value, is changed at every step; the text shows what that costs. Try a whole gate set to 0, then a single unit." },
];

const PATIENCE = 300; // milliseconds until the page says that it is computing

/**
 * @param {HTMLElement} root
 * @param {Source | ReportSource} source
 */
export async function inspect(root, source) {
  const whole = root === document.body; // the address is ours
  /** @type {HTMLElement} */
  let shown;
  const begin = newest();
  /** @type {Read} */
  async function read(text, view) {
    const current = begin();
    const found = await /** @type {Source} */ (source).read(text);
    const other = await reading(found, whole, view, read);
    if (!current()) return; // yet another text was given meanwhile
    shown.replaceWith(other);
    shown = other;
  }
  shown = await reading(source, whole, (whole && location.hash.slice(1)) || "text", source.read && read);
  root.append(shown);
}

/**
 * All that is shown of one reading.
 * @param {Source | ReportSource} source
 * @param {boolean} whole whether the address is ours
 * @param {string} first the view that is opened
 * @param {Read | null} read
 */
async function reading(source, whole, first, read) {
  /** @type {Description} */
  const run = await source.json("run");
  let selection = new Selection(run);
  let at = 0; // the view
  const waiting = h("p", { class: "faint", role: "status" });
  const begin = newest();
  const panel = h("div", { role: "tabpanel", id: "panel", tabindex: 0 });
  const tabs = VIEWS.map(({ name, tab }) =>
    h("button", { role: "tab", id: `tab-${name}`, "aria-controls": "panel", onclick: () => open(name) }, tab));
  const bar = h("div", { role: "tablist", class: "tabs", "aria-label": "Views", onkeydown: moveByKey }, tabs);
  const cell = cellView(source, run, (name) => {
    selection.set({ key: `${selection.value.layer}.${name}` });
    if (!VIEWS[at].ofValue) open("text");
  });

  /** @param {KeyboardEvent} event */
  function moveByKey(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const next = (tabs.findIndex((tab) => tab === event.target) + move + tabs.length) % tabs.length;
    tabs[next].focus();
    open(VIEWS[next].name);
  }

  /** @param {string} name */
  async function open(name) {
    const current = begin();
    at = Math.max(0, VIEWS.findIndex((view) => view.name === name));
    const { tab, guide, draw } = VIEWS[at];
    tabs.forEach((other, n) => {
      other.setAttribute("aria-selected", String(n === at));
      other.tabIndex = n === at ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", tabs[at].id);
    // A frame of a notebook has no address of its own.
    if (whole && location.protocol !== "about:") history.replaceState(null, "", `#${VIEWS[at].name}`);
    selection = selection.copy(); // without the listeners of the view before
    selection.listen(() => cell.mark(selection.value.name));
    const slow = setTimeout(() => {
      if (!current()) return; // what was opened meanwhile stays
      fill(panel);
      waiting.textContent = `${tab}: computing … The other views go on meanwhile.`;
    }, PATIENCE);
    /** @type {HTMLElement | null} */
    let view = null;
    let problem;
    try {
      view = await draw({ source, run, selection, go: open, read });
    } catch (error) {
      problem = error;
    }
    clearTimeout(slow);
    if (!current()) return; // another view was opened meanwhile
    waiting.textContent = "";
    fill(panel, h("p", { class: "lead" }, guide), view);
    if (problem) fail(panel, problem);
  }

  const main = h("main", { class: "inspector" },
    h("div", { class: "top" },
      h("header", {}, h("h1", {}, run.run),
        h("p", { class: "faint" },
          `${run.cell}, ${run.layers} layer${run.layers > 1 ? "s" : ""} of ${run.hidden}, ` +
          `${run.parameters.toLocaleString("en")} parameters; ${run.pieces.length.toLocaleString("en")} tokens read, ` +
          `${run.nats.toFixed(3)} nats each`),
        unknownTokens(run), read && readBox(read)),
      cell.element),
    bar, waiting, panel);
  open(first);
  return main;
}

/** How many tokens the model does not know, and what they are. @param {Description} run */
function unknownTokens({ pieces, unknown }) {
  return unknown.length > 0 && h("p", { class: "unknowns" },
    `${unknown.length} of ${pieces.length} tokens ${unknown.length > 1 ? "are" : "is"} unknown to this model, which reads them all alike: ` +
    `${counted(unknown.map((step) => pieces[step]))}.`);
}

/** @param {Read} read */
function readBox(read) {
  const text = h("textarea", { id: "read", rows: 4, placeholder: "A text of your own" });
  const state = h("div", { "aria-live": "polite" });
  return h("form", { class: "read", onsubmit: async (/** @type {Event} */ event) => {
    event.preventDefault();
    fill(state, h("p", { class: "faint" }, "reading …"));
    try {
      await read(text.value, location.hash.slice(1) || "text");
    } catch (error) {
      fill(state);
      fail(state, error);
    }
  } }, h("label", { class: "hidden", for: "read" }, "A text of your own"), text, h("button", {}, "Read this text"), state);
}
