// What the examiner marks: key points and criteria, each said, partly or missed.
import { h } from "../dom.js";
import { backing } from "./evidence.js";
import { formula } from "./formula.js";
import { maths } from "./maths.js";
import { CRITERIA, MARKS } from "./session.js";

/** @typedef {import("./session.js").Mark} Mark */
/** Called with what was marked: "points" and its number, or "criteria" and its name.
 * @typedef {(kind: "points" | "criteria", key: number | string, mark: Mark) => void} Marked */

const LABELS = { said: "✓ yes", partly: "~ partly", missed: "✗ no" };
export const KEYS_OF_MARKS = "1 to 9 key points, A to D the answer: ✓, ~, ✗ in turn";

/**
 * The key points, to be marked: in short, with the formula and what was measured; a click on
 * one shows all of it.
 * @param {import("./session.js").Question} question
 * @param {import("./evidence.js").Evidence | null} evidence
 * @param {import("./session.js").Round} round
 * @param {Marked} marked
 */
export function keyPoints(question, evidence, round, marked) {
  const items = question.points.map((point, n) =>
    h("li", {},
      pointView(point, n),
      point.formula && maths(point.formula),
      backing(evidence, n),
      choice("points", n, `point-${n}`, round.points[n] ?? null, marked)));
  return h("section", {}, h("h2", {}, "Key points"), h("ol", { class: "points" }, items));
}

/**
 * @param {import("./session.js").KeyPoint} point
 * @param {number} n
 */
function pointView({ lead, text, source, bonus }, n) {
  const badge = bonus && h("span", { class: "bonus" }, "Bonus");
  const detail = [h("p", lead ? {} : { id: `point-${n}` }, !lead && badge, formula(text)),
    h("p", { class: "faint source" }, source)];
  if (!lead) return h("div", {}, detail);
  const summary = h("summary", {}, h("strong", { id: `point-${n}` }, formula(lead)), badge);
  return h("details", {}, summary, detail);
}

/**
 * @param {import("./session.js").Round} round
 * @param {Marked} marked
 */
export function marksOf(round, marked) {
  return h("section", {}, h("h2", {}, "The answer"),
    CRITERIA.map(([key, label]) =>
      h("div", { class: "criterion" }, h("p", { id: `criterion-${key}` }, label),
        choice("criteria", key, `criterion-${key}`, round.criteria[key] ?? null, marked))));
}

/**
 * Three radio buttons.
 * @param {"points" | "criteria"} kind
 * @param {number | string} key
 * @param {string} label id of what they mark
 * @param {Mark | null} value
 * @param {Marked} marked
 */
function choice(kind, key, label, value, marked) {
  return h("div", { class: "choice", role: "radiogroup", "aria-labelledby": label },
    MARKS.map((mark) =>
      h("label", {},
        h("input", { type: "radio", name: `${kind}-${key}`, value: mark, checked: value === mark,
          onchange: () => marked(kind, key, mark) }),
        ` ${LABELS[mark]}`)));
}

/**
 * What a key marks on the page, if anything: 1 to 9 the key points, a to d the criteria.
 * @param {HTMLElement} root
 * @param {string} key
 */
export function markByKey(root, key) {
  const criterion = CRITERIA[key.charCodeAt(0) - "a".charCodeAt(0)];
  const name = /^[1-9]$/.test(key) ? `points-${Number(key) - 1}` : `criteria-${criterion?.[0]}`;
  const radios = /** @type {HTMLInputElement[]} */ ([...root.querySelectorAll(`input[name="${name}"]`)]);
  if (!radios.length || key.length > 1) return undefined;
  return () => {
    const next = radios[(radios.findIndex((radio) => radio.checked) + 1) % radios.length];
    next.closest("li, .criterion")?.scrollIntoView({ block: "nearest" });
    next.click();
  };
}

/**
 * Put the marks of a round, which another page may have changed, on this page.
 * @param {HTMLElement} root
 * @param {import("./session.js").Round} round
 */
export function showMarks(root, round) {
  /** @type {NodeListOf<HTMLInputElement>} */
  const radios = root.querySelectorAll(".choice input");
  for (const radio of radios) {
    const [kind, key] = radio.name.split("-");
    const marks = /** @type {any} */ (kind === "points" ? round.points : round.criteria);
    radio.checked = marks[key] === radio.value;
  }
}
