// What the laboratory measured for a question, and a button that measures it again.
import { get, post } from "../api.js";
import { fail, fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { formula } from "./formula.js";
import { zoomable } from "./zoom.js";

/** @typedef {{name: string, measured: number | null, interval: string, holds: boolean}} Claim */
/**
 * @typedef {object} Result
 * @property {boolean} quick
 * @property {number} seed
 * @property {string} date
 * @property {number} seconds
 * @property {string} command
 * @property {string} conclusion
 * @property {boolean} holds
 * @property {Claim[]} claims
 * @property {(Backing | null)[]} backs for each key point its claim, and of which run it is
 */
/** @typedef {Claim & {quick: boolean, seed: number, date: string, sentence: string}} Backing */
/** @typedef {{experiment: string, running: boolean, failure: string | null, result: Result | null}} Evidence */

const POLL = 1000; // milliseconds between two looks at a run

/**
 * The laboratory's part of the discussion.
 * @param {import("./session.js").Question} question
 * @param {Evidence} first what is known already
 * @param {(evidence: Evidence) => void} changed called with every new result
 */
export function evidenceView(question, first, changed) {
  const path = `/api/evidence/${encodeURIComponent(question.id)}`;
  const box = h("section", { class: "evidence", "aria-live": "polite" });
  let shown = "";
  const show = (/** @type {Evidence} */ evidence) => {
    const now = JSON.stringify(evidence);
    if (now !== shown) {
      if (shown) changed(evidence);
      shown = now;
      fill(box, view(question, evidence, () => tell(post(path, {}))));
    }
    if (evidence.running)
      setTimeout(() => box.isConnected && tell(get(path)), POLL);
  };
  const begin = newest();
  /** @param {Promise<Evidence>} answer */
  const tell = (answer) => {
    const current = begin();
    answer.then((found) => current() && show(found), (error) => current() && fail(box, error));
  };
  show(first);
  if (!first.running) tell(get(path)); // another page may have run it
  return box;
}

/**
 * What was measured behind a key point, in a sentence; a tooltip says where and when.
 * @param {Evidence | null} evidence
 * @param {number} point
 */
export function backing(evidence, point) {
  const back = evidence?.result?.backs[point];
  if (!back) return null;
  const { holds, sentence, quick, seed, date, interval } = back;
  const id = `measured-${point}`;
  return h("p", { class: "measured" },
    h("span", { class: `tip ${holds ? "faint" : "fails"}`, tabindex: 0, role: "note", "aria-describedby": id },
      holds ? "✓ " : "✗ ", formula(sentence), !holds && ` Expected: ${interval}.`,
      h("span", { class: "tooltip", role: "tooltip", id },
        `cellwright lab ${evidence.experiment}, ${quick ? "quick" : "full"} form, seed ${seed}, ${date}. Expected: ${interval}.`)));
}

/**
 * A line in red where the laboratory contradicts a question, or nothing.
 * @param {Evidence | null} evidence
 */
export function warning(evidence) {
  if (!evidence) return null;
  const { experiment, result } = evidence;
  if (result?.holds) return null;
  const why = result
    ? `a claim of its experiment, ${experiment}, failed on ${result.date}`
    : `its experiment, ${experiment}, has no result`;
  return h("p", { class: "fails" }, `✗ The key points need another look: ${why}.`);
}

/**
 * One word on a question's experiment, for the list of questions.
 * @param {Evidence | null} evidence
 */
export function verdict(evidence) {
  if (!evidence) return null;
  const { experiment, result } = evidence;
  const holds = result?.holds;
  return h("span", { class: `verdict ${holds ? "holds" : "fails"}` },
    `${holds ? "✓" : "✗"} ${experiment}${result ? `, ${result.date}` : ": no result"}`);
}

/**
 * @param {import("./session.js").Question} question
 * @param {Evidence} evidence
 * @param {() => void} run
 */
function view(question, { experiment, result, running, failure }, run) {
  const button = h("button", { onclick: run, disabled: running },
    running ? "The laboratory is at work …" : `Run it${result ? " again" : ""} (about a minute)`);
  const heading = h("h2", {}, `The laboratory: ${experiment}`);
  const problem = failure && h("p", { class: "error" }, failure);
  if (!result) return [heading, problem, button];
  // The run's date and time keep the browser from showing an older plot.
  const plot = zoomable(
    `/api/plot/${encodeURIComponent(question.id)}?${encodeURIComponent(result.date + result.seconds)}`,
    `Plot of the experiment ${experiment}: ${result.conclusion}`);
  return [heading, plot, h("p", {}, result.conclusion), claimTable(question, result),
    h("div", { class: "bar" }, button,
      h("span", { class: "faint" }, `Last run: ${result.quick ? "quick" : "full"} form, seed ${result.seed}, `,
        `${result.date}, ${result.seconds} s`, result.command && [": ", h("code", {}, result.command)].flat())),
    problem];
}

/**
 * @param {import("./session.js").Question} question
 * @param {Result} result
 */
function claimTable(question, result) {
  const backs = (/** @type {Claim} */ { name }) =>
    question.points.map((_, p) => p + 1).filter((p) => result.backs[p - 1]?.name === name).join(", ");
  const caption = result.holds ? "✓ every claim holds" : "✗ not every claim holds";
  return h("details", { open: !result.holds },
    h("summary", { class: result.holds ? "holds" : "fails" }, `${caption} (${result.claims.length})`),
    h("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "Claims" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Claim", "Measured", "Expected", "Point"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, result.claims.map((claim) =>
        h("tr", { class: claim.holds ? "" : "fails" },
          h("td", {}, `${claim.holds ? "✓" : "✗"} ${claim.name}`),
          h("td", { class: "number" }, figure(claim.measured)),
          h("td", { class: "number" }, claim.interval),
          h("td", {}, backs(claim))))))));
}

/** @param {number | null} measured */
const figure = (measured) => (measured === null ? "nothing" : String(Number(measured.toPrecision(3))));
