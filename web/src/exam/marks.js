// What the examiner marks: key points and criteria, each said, partly or missed.
import { h } from "../dom.js";
import { backing } from "./evidence.js";
import { formula } from "./formula.js";
import { CRITERIA } from "./session.js";

/** @typedef {import("./session.js").Mark} Mark */
/** @type {[Mark, string][]} */
const MARKS = [["said", "✓ yes"], ["partly", "~ partly"], ["missed", "✗ no"]];

/**
 * The key points with their sources and measurements, to be marked.
 * @param {import("./session.js").Question} question
 * @param {import("./evidence.js").Evidence | null} evidence
 * @param {import("./session.js").Round} round
 * @param {(change: Partial<import("./session.js").Round>) => void} note
 */
export function keyPoints(question, evidence, round, note) {
  const marks = question.points.map((_, n) => round.points[n] ?? null);
  const items = question.points.map((point, n) =>
    h("li", {},
      h("p", { id: `point-${n}` }, point.bonus && h("strong", { class: "bonus" }, "Bonus"), formula(point.text)),
      h("p", { class: "faint source" }, point.source, h("br"), backing(evidence, n)),
      choice(`mark-${n}`, `point-${n}`, marks[n], (mark) => {
        marks[n] = mark;
        note({ points: [...marks] });
      })));
  return h("section", {},
    h("h2", {}, "Key points"),
    h("ol", { class: "points" }, items),
    question.sketch && h("p", {}, h("strong", {}, "A useful sketch: "), formula(question.sketch)));
}

/**
 * @param {import("./session.js").Round} round
 * @param {(change: Partial<import("./session.js").Round>) => void} note
 */
export function marksOf(round, note) {
  const marks = { ...round.criteria };
  return h("section", {}, h("h2", {}, "The answer"),
    CRITERIA.map(([key, label]) =>
      h("div", { class: "criterion" }, h("p", { id: `criterion-${key}` }, label),
        choice(`criterion-${key}-mark`, `criterion-${key}`, marks[key] ?? null, (mark) => {
          marks[key] = mark;
          note({ criteria: { ...marks } });
        }))));
}

/**
 * Three radio buttons.
 * @param {string} name
 * @param {string} label id of what they mark
 * @param {Mark | null} value
 * @param {(mark: Mark) => void} change
 */
function choice(name, label, value, change) {
  return h("div", { class: "choice", role: "radiogroup", "aria-labelledby": label },
    MARKS.map(([mark, text]) =>
      h("label", {},
        h("input", { type: "radio", name, checked: value === mark, onchange: () => change(mark) }),
        ` ${text}`)));
}
