// Who examines, who answers, who acts now, and what is to be done.
import { h } from "../dom.js";
import { acting, isSolo, round, TIMED } from "./session.js";

/** @typedef {import("./session.js").Session} Session */

const TASKS = {
  ready: "Read the question. Ask back if it is not clear.",
  answer: "answers now: most important first, with a sketch.",
  feedback: "gives feedback against the key points.",
  discussion: "Discuss together, for about a minute: what does the experiment say?",
};
const ALONE = {
  ready: "Read the question. Answer aloud, as if somebody listened.",
  answer: "Answer now: most important first, with a sketch.",
  feedback: "Mark your answer against the key points.",
  discussion: "What does the experiment say? What would you say next time?",
};

/** @param {Session} session */
export function taskOf(session) {
  const phase = /** @type {keyof typeof TASKS} */ (session.phase);
  if (isSolo(session)) return ALONE[phase];
  const { answering } = round(session);
  const who = { answer: session.names[answering], feedback: session.names[1 - answering] }[
    /** @type {string} */ (phase)];
  return who ? `${who} ${TASKS[phase]}` : TASKS[phase];
}

/** @param {Session} session */
export function roundHead(session) {
  const { answering } = round(session);
  const acts = acting(session);
  const roles = session.names.map((name, person) => {
    const role = answering === person ? "answers" : "examines";
    return h("p", { class: `role ${role}${acts.includes(person) ? " acts" : ""}` }, h("strong", {}, name), ` ${role}`);
  });
  const steps = TIMED.map((phase) =>
    h("li", { "aria-current": session.phase === phase && "step" }, capital(phase)));
  return h("header", { class: "exam-head" },
    h("div", { class: "roles" }, roles),
    h("p", { class: "faint count" }, place(session)),
    h("ol", { class: "steps", "aria-label": "Steps" }, steps),
    h("p", { class: "task" }, taskOf(session)));
}

/**
 * "Question 2 of 8"; of one that comes again, how many do.
 * @param {Session} session
 */
function place({ rounds, order }) {
  const first = new Set(order).size;
  if (rounds.length <= first) return `Question ${rounds.length} of ${first}`;
  return `Again: ${rounds.length - first} of ${order.length - first}`;
}

export const capital = (/** @type {string} */ word) => word[0].toUpperCase() + word.slice(1);
