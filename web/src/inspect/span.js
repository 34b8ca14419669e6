// A span of the text that the reader selects: the units that are on there and off around
// it, and further places with that pattern.
import { fail, fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { findPlaces, findUnits } from "./pattern.js";
import { visible } from "./selection.js";

const CONTEXT = 12; // tokens shown on both sides of a place

/**
 * @param {import("./inspect.js").Context} context
 * @param {HTMLElement} box the painted text
 */
export function spanFinder({ source, run, selection }, box) {
  const result = h("div", { "aria-live": "polite" });
  const share = h("input", { type: "range", min: 5, max: 45, step: 5, value: 25, "aria-label": "Share of the steps at which a unit counts as on", onchange: () => look() });
  const told = h("output");
  const settings = h("label", { hidden: true }, "on: the highest, or the lowest, ", told, " of a unit's values ", share);
  const element = h("div", {}, h("h2", {}, "Units of a span"),
    h("p", { class: "faint" }, "Select some of the text, with the pointer or Shift and the arrow keys."), settings, result);
  /** @type {[number, number] | null} */
  let span = null;
  /** @type {number | null} */
  let anchor = null; // of a selection by keys
  const begin = newest();
  let key = selection.key;

  /** @param {number} a @param {number} b */
  function choose(a, b) {
    const [from, to] = a < b ? [a, b] : [b, a];
    if (span && span[0] === from && span[1] === to) return;
    span = [from, to];
    look();
  }

  async function look() {
    if (!span) return;
    const current = begin();
    const [from, to] = span;
    settings.hidden = false;
    told.textContent = `${share.value} %`;
    try {
      const levels = await whole(source, selection.key, run.pieces.length);
      if (!current()) return;
      const units = findUnits(levels, from, to, share.valueAsNumber / 100);
      const places = findPlaces(levels, units, from, to, share.valueAsNumber / 100);
      mark(box, "span", [{ from, to }]);
      mark(box, "place", places);
      fill(result, h("p", {}, `“${shown(from, to)}”, steps ${from} to ${to}: `, units.length
        ? `units of ${selection.title} that are on there, and off just before and after it:`
        : `no unit of ${selection.title} is on in all of it and off just before and after it. Try a shorter span, another share, or another value.`),
      h("ol", { class: "units span-units" }, units.map(({ unit, high }) => h("li", {},
        h("button", { class: "link", onclick: () => selection.set({ unit }) }, `unit ${unit}`), high ? " high" : " low"))),
      units.length > 0 && h("p", {}, places.length ? "Further places where most of them are on:" : "Nowhere else are most of them on."),
      h("ol", { class: "places" }, places.map((place) => h("li", {}, h("button", { class: "link snippet", onclick: () => go(place.from) },
        shown(place.from - CONTEXT, place.from - 1), h("mark", {}, shown(place.from, place.to)), shown(place.to + 1, place.to + CONTEXT))))));
      const aside = element.closest(".hints"); // which scrolls, where it is beside the text
      aside?.scrollTo({ top: element.offsetTop });
      box.dataset.span = `${from} ${to} ${selection.key}`;
    } catch (error) {
      if (!current()) return;
      fill(result);
      fail(result, error);
    }
  }

  /** @param {number} from @param {number} to */
  const shown = (from, to) => run.pieces.slice(Math.max(from, 0), to + 1).map((piece) => (piece === " " ? " " : visible(piece))).join("");

  /** @param {number} step */
  function go(step) {
    selection.set({ step });
    box.querySelector(`[data-step="${step}"]`)?.scrollIntoView({ block: "center" });
  }

  listenForSpans(box, choose);
  box.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key]; // the text has moved the step by it
    if (!move) return;
    if (!event.shiftKey) { anchor = null; return; }
    anchor ??= selection.step - move;
    choose(anchor, selection.step);
  });
  selection.listen(() => {
    if (selection.key !== key) look();
    key = selection.key;
  });
  return element;
}

/**
 * A value's levels at every step.
 * @param {import("./inspect.js").Context["source"]} source
 * @param {string} key
 * @param {number} steps
 * @returns {Promise<import("./source.js").Bytes>}
 */
async function whole(source, key, steps) {
  const blocks = await source.blocks(key, 0, steps);
  if (blocks.length === 1) return blocks[0];
  const { rows } = blocks[0];
  const data = new Uint8Array(rows * steps);
  for (const block of blocks)
    for (let row = 0; row < rows; row++)
      data.set(block.data.subarray(row * block.columns, (row + 1) * block.columns), row * steps + block.from);
  return { rows, columns: steps, data };
}

/**
 * What is selected in a text with the pointer, or by touch.
 * @param {HTMLElement} box
 * @param {(from: number, to: number) => void} choose
 */
function listenForSpans(box, choose) {
  const stepOf = (/** @type {Node | null} */ node) => {
    const element = node instanceof Element ? node : node?.parentElement;
    return Number(/** @type {HTMLElement | null | undefined} */ (element?.closest("[data-step]"))?.dataset.step ?? NaN);
  };
  let wait = 0;
  const changed = () => {
    if (!box.isConnected) { document.removeEventListener("selectionchange", changed); return; }
    clearTimeout(wait);
    wait = setTimeout(() => {
      const root = /** @type {any} */ (box.getRootNode()); // a notebook's is a shadow root
      const picked = /** @type {Selection | null} */ (root.getSelection ? root.getSelection() : document.getSelection());
      if (!picked || picked.isCollapsed) return;
      const from = stepOf(picked.anchorNode), to = stepOf(picked.focusNode);
      if (box.contains(picked.anchorNode) && box.contains(picked.focusNode) && from >= 0 && to >= 0) choose(from, to);
    }, 150);
  };
  box.addEventListener("selectstart", () => document.addEventListener("selectionchange", changed));
}

/**
 * Mark the tokens of some spans, and no others.
 * @param {HTMLElement} box
 * @param {string} name of the class
 * @param {{from: number, to: number}[]} spans
 */
function mark(box, name, spans) {
  for (const element of box.querySelectorAll(`.${name}`)) element.classList.remove(name);
  const tokens = box.children;
  for (const { from, to } of spans)
    for (let step = from; step <= to; step++) tokens[step].classList.add(name);
}
