// The cell's picture; a box in it chooses the value that is shown.
import { fail, fill, h } from "../dom.js";

/** @typedef {{svg: string, width: number, boxes: Record<string, [number, number, number, number]>}} Picture boxes: left, top, width, height as shares */

const LEAST = 0.65; // of its size, of a large cell's picture, which scrolls

/**
 * @param {import("./inspect.js").Context["source"]} source
 * @param {import("./inspect.js").Description} run
 * @param {(name: string) => void} choose
 * @returns {{element: HTMLElement, mark: (name: string) => void}}
 */
export function cellView(source, run, choose) {
  const summary = h("summary", {}, "The cell: a box chooses the value");
  const drawn = h("div", { class: "picture" }, h("p", { class: "faint" }, "drawing …"));
  /** @type {HTMLElement[]} */
  let boxes = [];
  let marked = "";
  /** @param {string} name */
  function mark(name) {
    marked = name;
    for (const box of boxes) box.setAttribute("aria-pressed", String(box.dataset.name === name));
  }
  source.json("picture").then((/** @type {Picture | null} */ picture) => {
    if (!picture) { fill(summary, "The cell"); fill(drawn, h("pre", {}, run.equations.join("\n"))); return; }
    boxes = Object.entries(picture.boxes).map(([name, place]) => boxOf(name, place, choose));
    const src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(picture.svg)}`;
    drawn.style.minWidth = `${LEAST * picture.width}px`;
    fill(drawn, h("img", { alt: `The cell ${run.cell}`, src }), boxes);
    mark(marked);
  }).catch((error) => fail(drawn, error));
  const wide = matchMedia("(min-width: 60rem)").matches;
  return { element: h("details", { class: "cell", open: wide }, summary, h("div", { class: "frame" }, drawn)), mark };
}

/**
 * @param {string} name
 * @param {number[]} place
 * @param {(name: string) => void} choose
 */
function boxOf(name, place, choose) {
  const box = h("button", { class: "box", title: `show ${name}`, "aria-label": `Show ${name}`, "data-name": name, onclick: () => choose(name) });
  const [left, top, width, height] = place.map((part) => `${100 * part}%`);
  Object.assign(box.style, { left, top, width, height });
  return box;
}
