// The inspector: seven views of one reading, tied by one selection.
import { fail, fill, h } from "../dom.js";
import { flowView } from "./flow.js";
import { heatView } from "./heat.js";
import { interveneView } from "./intervene.js";
import { liveView } from "./live.js";
import { nextView } from "./next.js";
import { saturationView } from "./saturation.js";
import { Selection } from "./selection.js";
import { textView } from "./text.js";

/** @typedef {import("./source.js").Source} Source */
/** @typedef {import("./report.js").ReportSource} ReportSource */
/** @typedef {{key: string, layer: number, name: string, size: number, state: boolean, gate: boolean, low: number, high: number}} Value */
/** @typedef {{run: string, beside: string | null, cell: string, equations: string[], layers: number, hidden: number, parameters: number, window: number, pieces: string[], values: Value[], detectors: string[], orders: string[], nats: number}} Description */
/** @typedef {{source: Source | ReportSource, run: Description, selection: Selection, go: (view: string) => void}} Context */

/** @type {[string, string, (context: Context) => HTMLElement | Promise<HTMLElement>][]} */
const VIEWS = [
  ["text", "Text", textView],
  ["heat", "Heat map", heatView],
  ["saturation", "Saturation", saturationView],
  ["flow", "Gradient flow", flowView],
  ["next", "Next token", nextView],
  ["live", "Type", liveView],
  ["intervene", "Intervene", interveneView],
];

const PATIENCE = 300; // milliseconds until the page says that it is computing

/**
 * @param {HTMLElement} root
 * @param {Source | ReportSource} source
 */
export async function inspect(root, source) {
  /** @type {Description} */
  const run = await source.json("run");
  let selection = new Selection(run);
  const whole = root === document.body; // the address is ours
  const waiting = h("p", { class: "faint", role: "status" });
  let opened = 0;
  const panel = h("div", { role: "tabpanel", id: "panel", tabindex: 0 });
  const tabs = VIEWS.map(([name, label]) =>
    h("button", { role: "tab", id: `tab-${name}`, "aria-controls": "panel", onclick: () => open(name) }, label));
  const bar = h("div", { role: "tablist", class: "tabs", "aria-label": "Views", onkeydown: moveByKey }, tabs);

  /** @param {KeyboardEvent} event */
  function moveByKey(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const at = tabs.findIndex((tab) => tab === event.target);
    const next = (at + move + tabs.length) % tabs.length;
    tabs[next].focus();
    open(VIEWS[next][0]);
  }

  /** @param {string} name */
  async function open(name) {
    const request = ++opened;
    const at = Math.max(0, VIEWS.findIndex(([other]) => other === name));
    tabs.forEach((tab, n) => {
      tab.setAttribute("aria-selected", String(n === at));
      tab.tabIndex = n === at ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", tabs[at].id);
    if (whole) history.replaceState(null, "", `#${VIEWS[at][0]}`);
    selection = selection.copy(); // without the listeners of the view before
    const slow = setTimeout(() => {
      fill(panel);
      waiting.textContent = `${VIEWS[at][1]}: computing … The other views go on meanwhile.`;
    }, PATIENCE);
    /** @type {HTMLElement | null} */
    let view = null;
    let problem;
    try {
      view = await VIEWS[at][2]({ source, run, selection, go: open });
    } catch (error) {
      problem = error;
    }
    clearTimeout(slow);
    if (request !== opened) return; // another view was opened meanwhile
    waiting.textContent = "";
    fill(panel, view);
    if (problem) fail(panel, problem);
  }

  root.append(h("main", { class: "inspector" },
    h("header", {}, h("h1", {}, run.run),
      h("p", { class: "faint" },
        `${run.cell}, ${run.layers} layer${run.layers > 1 ? "s" : ""} of ${run.hidden}, ` +
        `${run.parameters.toLocaleString("en")} parameters; ${run.pieces.length} tokens read, ` +
        `${run.nats.toFixed(3)} nats each`),
      h("details", {}, h("summary", {}, "Equations"), h("pre", {}, run.equations.join("\n")))),
    bar, waiting, panel));
  await open((whole && location.hash.slice(1)) || "text");
}
