// The text, painted by one unit of one value; and which units are worth painting with.
import { fail, fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { short, swatches } from "./colour.js";
import { spanFinder } from "./span.js";
import { visible } from "./selection.js";

/** @param {import("./inspect.js").Context} context */
export async function textView(context) {
  const { source, run, selection } = context;
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const scaleBox = h("div");
  const { box, paint } = paintedText(run.pieces, selection);
  /** @type {() => void} */
  let paintedOnce;
  const painted = new Promise((/** @type {(value: void) => void} */ resolve) => { paintedOnce = resolve; });
  const begin = newest();
  let shown = ""; // the value, unit and colours that are painted
  /** @type {Float32Array} */
  let column = new Float32Array();

  selection.listen(async () => {
    const current = begin();
    const { key, unit, value, title, byUnit } = selection;
    if (shown !== `${key} ${unit} ${byUnit}`) {
      const [found, ranges] = await Promise.all([source.exact(key, unit), source.ranges(key)]);
      if (!current()) return; // another unit was chosen meanwhile
      column = found;
      shown = `${key} ${unit} ${byUnit}`;
      paint(column, selection.scale(ranges));
      fill(scaleBox, selection.legend(ranges));
      box.dataset.shown = shown;
      paintedOnce();
      for (const next of [unit - 1, unit + 1]) // of the arrow keys
        if (next >= 0 && next < value.size) source.exact(key, next);
    }
    const { step } = selection;
    readout.textContent = `Unit ${unit} of ${title}, step ${step}, “${visible(run.pieces[step])}”: ${short(column[step])}`;
  });
  box.addEventListener("keydown", (event) => {
    const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    selection.set({ unit: selection.unit + move });
  });
  return h("section", {},
    h("div", { class: "bar" }, selection.valuePicker(), selection.unitPicker(), selection.scaleSwitch(), scaleBox),
    readout,
    h("div", { class: "beside" }, box,
      h("aside", { class: "hints" }, interesting(context, painted), spanFinder(context, box))));
}

/**
 * The text, a span for each token. Pointer and arrow keys select the step, which is marked.
 * @param {string[]} pieces
 * @param {import("./selection.js").Selection} selection
 */
export function paintedText(pieces, selection) {
  const spans = pieces.map((piece, n) => h("span", { "data-step": n }, piece === "\n" ? "↵\n" : piece));
  for (const n of selection.run.unknown) {
    spans[n].className = "unknown";
    spans[n].title = "unknown to this model";
  }
  const box = h("div", { class: "text", tabindex: 0, role: "group", "aria-label": "The text, a token a colour; arrow keys left and right change the step, up and down the unit" }, spans);
  let at = spans[0];
  // Not pointerover, which also comes when the keys scroll the text under a resting pointer.
  box.addEventListener("pointermove", (event) => {
    const { step } = /** @type {HTMLElement} */ (event.target).dataset;
    if (step !== undefined && Number(step) !== selection.step) selection.set({ step: Number(step) });
  });
  box.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    selection.set({ step: selection.step + move });
    at.scrollIntoView({ block: "nearest" });
  });
  const stop = selection.listen(() => {
    at.classList.remove("at");
    at = spans[selection.step];
    at.classList.add("at");
  });
  let rest = 0;
  /**
   * What can be seen at once, the rest when there is time.
   * @param {ArrayLike<number | null>} values one a token; none is painted as 0
   * @param {import("./colour.js").Scale} scale
   */
  function paint(values, scale) {
    const swatch = swatches(scale);
    const [from, to] = seen(box, spans);
    const some = (/** @type {number} */ first, /** @type {number} */ end) => {
      for (let n = first; n < end; n++) spans[n].style.cssText = swatch(values[n] ?? 0);
    };
    cancelIdleCallback(rest);
    some(from, to);
    rest = requestIdleCallback(() => { some(0, from); some(to, spans.length); });
  }
  return { box, paint, stop };
}

/**
 * The tokens in a scrolling box that can be seen: from and to.
 * @param {HTMLElement} box
 * @param {HTMLElement[]} spans in the order of their lines
 */
function seen(box, spans) {
  if (!box.clientHeight) return [0, spans.length];
  /** @param {number} height the first token that begins below */
  const below = (height) => {
    let [low, high] = [0, spans.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (spans[middle].offsetTop > height) high = middle; else low = middle + 1;
    }
    return low;
  };
  const line = spans[0].offsetHeight;
  return [below(box.scrollTop - 2 * line), below(box.scrollTop + box.clientHeight)];
}

/**
 * @param {import("./inspect.js").Context} context
 * @param {Promise<void>} painted not before this
 */
function interesting({ source, run, selection }, painted) {
  const list = h("ol", { class: "units" });
  const most = h("div", { class: "faint" });
  const pattern = h("input", { placeholder: "regular expression", title: "As RE2 reads it: no looking around, no references back", "aria-label": "Regular expression", hidden: true,
    onchange: () => look() });
  const menu = h("select", { "aria-label": "Detector", onchange: () => { pattern.hidden = menu.value !== "pattern"; look(); } },
    run.detectors.map((name) => h("option", { value: name }, name)),
    h("option", { value: "pattern" }, "a pattern of mine …"));
  menu.value = run.best?.detector ?? run.detectors[0];
  const begin = newest();
  const look = async () => {
    const current = begin();
    fill(most);
    fill(list);
    if (menu.value === "pattern" && !pattern.value) return;
    fill(most, "counting …");
    try {
      const asked = menu.value === "pattern" ? [`?pattern=${encodeURIComponent(pattern.value)}`] : [];
      const found = await source.json("interesting", menu.value, ...asked);
      if (!current()) return; // another detector was chosen meanwhile
      const kinds = new Set(found.classes).size;
      if (kinds < 2) fill(most, "This text has only one class of it: there is nothing to follow.");
      else if (!found.units.length) fill(most, "No unit follows it.");
      else fill(most, `A unit that tells all of it would have ${found.entropy.toFixed(2)} bits.`);
      fill(list, found.units.map((/** @type {any} */ u) =>
        h("li", {}, h("button", { class: "link", onclick: () => selection.set({ key: u.key, unit: u.unit }) },
          `${u.key} unit ${u.unit}`), ` ${u.bits.toFixed(2)} bits`)));
    } catch (error) {
      if (!current()) return;
      fill(most);
      fail(most, error);
    }
  };
  painted.then(look);
  return h("div", {}, h("h2", {}, "Interesting units"),
    h("p", { class: "faint" }, "By the mutual information of their value and …"),
    h("div", { class: "bar" }, menu, pattern), most, list);
}
