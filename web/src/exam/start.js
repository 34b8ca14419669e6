// The first page: who, how long, which questions.
import { h } from "../dom.js";
import { verdict } from "./evidence.js";
import { capital } from "./roles.js";
import { shuffled, TIMED } from "./session.js";

/** @typedef {import("./session.js").Question} Question */
/** @typedef {Parameters<typeof import("./session.js").start>[0]} Plan */

const FOR_TWO = "Two people at one screen. One examines, the other answers; after each question the roles swap.";
const FOR_ONE = "You answer aloud and sketch, then mark yourself against the key points.";

/**
 * @param {Question[]} questions
 * @param {{hints: string[], seconds: Record<string, number>}} given
 * @param {Map<string, import("./evidence.js").Evidence | null>} evidence
 * @param {(plan: Plan) => void} begin
 */
export function startView(questions, given, evidence, begin) {
  const who = whoView();
  const times = TIMED.map((phase) =>
    h("input", { type: "number", id: `time-${phase}`, min: 5, max: 3600, step: 5, required: true,
      value: given.seconds[phase] }));
  const boxes = questions.map((q) => h("input", { type: "checkbox", checked: true, id: `q-${q.id}` }));
  const problem = h("p", { role: "alert" });
  const length = h("p", { class: "faint" });
  const refresh = () => {
    const asked = boxes.filter((box) => box.checked).length;
    const each = times.reduce((sum, input) => sum + (input.valueAsNumber || 0), 0);
    length.textContent = `${asked} of ${questions.length} questions, about ${Math.ceil((asked * each) / 60)} minutes. ` +
      "They are asked in random order; one that is missed comes again at the end.";
    who.refresh();
  };
  const form = h("form", { oninput: refresh },
    h("h1", {}, "Pair exam"),
    who.note,
    h("div", { class: "two" },
      h("section", {}, h("h2", {}, "Who"), who.view),
      h("section", {}, h("h2", {}, "Seconds"),
        h("div", { class: "fields" }, TIMED.map((phase, n) => h("label", {}, capital(phase), times[n]))))),
    h("h2", {}, "Questions"),
    h("ul", { class: "plain questions" }, questions.map((q, n) =>
      h("li", {}, boxes[n], h("label", { for: boxes[n].id }, q.question), verdict(evidence.get(q.id) ?? null)))),
    length,
    problem,
    h("button", { class: "main", type: "submit" }, "Draw the first question"));
  refresh();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = questions.filter((_, n) => boxes[n].checked).map((q) => q.id);
    if (!chosen.length) { problem.textContent = "Choose at least one question."; return; }
    begin({
      names: who.names(),
      seconds: /** @type {any} */ (Object.fromEntries(TIMED.map((p, n) => [p, times[n].valueAsNumber]))),
      order: shuffled(chosen),
    });
  });
  return h("div", {}, form, hintList(given.hints));
}

/** Two people or one, and their names. */
function whoView() {
  const [pair, solo] = ["Two people", "Solo"].map((label, n) => {
    const input = h("input", { type: "radio", name: "people", checked: n === 0 });
    return { input, label: h("label", {}, input, ` ${label}`) };
  });
  const names = ["A", "B"].map((value, n) =>
    h("input", { value, required: true, maxlength: 40, id: `name-${n}` }));
  const roles = ["Examines first", "Answers first"].map((role) => h("span", {}, role));
  const labels = names.map((input, n) => h("label", {}, roles[n], input));
  const note = h("p");
  const second = h("p", { class: "faint" }, "The examiner can have the key points on a second screen: ",
    h("a", { href: "/examiner", target: "_blank" }, "the examiner's page"), ".");
  const refresh = () => {
    const alone = solo.input.checked;
    note.textContent = alone ? FOR_ONE : FOR_TWO;
    roles[0].textContent = alone ? "Name" : "Examines first";
    labels[1].hidden = names[1].disabled = second.hidden = alone;
  };
  return {
    note,
    refresh,
    view: h("div", {}, h("div", { class: "choice", role: "radiogroup", "aria-label": "How many" }, pair.label, solo.label),
      h("div", { class: "fields" }, labels), second),
    names: () => names.filter((input) => !input.disabled).map((input) => input.value.trim() || "?"),
  };
}

/** @param {string[]} hints */
export function hintList(hints) {
  return h("aside", { class: "hints" }, h("h2", {}, "Hints for the one who answers"),
    h("ol", {}, hints.map((hint) => h("li", {}, hint))));
}
