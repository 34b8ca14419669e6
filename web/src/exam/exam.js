// The exam's page: shows the session, handles the input of both people, saves every change.
import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { confirmButton } from "./confirm.js";
import { evidenceView, verdict, warning } from "./evidence.js";
import { keyPoints, marksOf } from "./marks.js";
import { sketchPad } from "./pad.js";
import { saver } from "./save.js";
import {
  advance, edit, finish, isSession, over, pause, remaining, resume, round, shuffled, start, tick,
  TIMED,
} from "./session.js";
import { summaryView } from "./summary.js";

/** @typedef {import("./session.js").Question} Question */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./evidence.js").Evidence} Evidence */

const TASKS = {
  ready: "Read the question. Ask back if it is not clear.",
  answer: "answers now: most important first, with a sketch.",
  feedback: "gives feedback against the key points.",
  discussion: "Discuss together, for about a minute: what does the experiment say?",
};
const SOON = 10_000; // milliseconds before the end from which the clock warns

/** @param {HTMLElement} root */
export async function exam(root) {
  const given = await get("/api/exam");
  /** @type {Map<string, Question>} */
  const questions = new Map(given.questions.map((/** @type {Question} */ q) => [q.id, q]));
  /** @type {Map<string, Evidence | null>} */
  const evidence = new Map(Object.entries(given.evidence));
  /** @type {Session | null} */
  let session = isSession(given.session, (id) => questions.has(id)) ? given.session : null;
  const spoken = h("p", { class: "hidden", "aria-live": "assertive" });
  const trouble = h("p", { role: "alert", class: "error", hidden: !given.notice }, given.notice);
  const main = h("main");
  root.append(spoken, trouble, main);

  const save = saver("/api/session", (error) => {
    trouble.hidden = !error;
    trouble.textContent = error && `The exam is not saved: ${error.message}. Is the server still running?`;
  });
  /** @param {Session | null} next */
  const update = (next) => { session = next; save(next); };
  /** @param {Session | null} next */
  const go = (next) => { update(next); show(); };

  let clock = 0;
  function show() {
    clearInterval(clock);
    if (!session)
      fill(main, startView([...questions.values()], given, evidence, (plan) => go(start(plan, Date.now()))));
    else if (session.phase === "done")
      fill(main, summaryView(session, questions, evidence, () => go(null)));
    else clock = showRound(session);
  }

  /** @param {Session} shown */
  function showRound(shown) {
    const now = round(shown);
    const question = /** @type {Question} */ (questions.get(now.id));
    const waits = shown.phase === "ready";
    const timer = h("p", { class: "timer", role: "timer" });
    const bar = h("progress", { max: 1, "aria-label": "time left" });
    const alarm = h("div", {}, warning(evidence.get(now.id) ?? null));
    /** @param {Partial<import("./session.js").Round>} change */
    const note = (change) => update(edit(/** @type {Session} */ (session), change));
    fill(
      main,
      roundHead(shown),
      h("h1", { class: "question" }, question.question),
      alarm,
      h("div", { class: "clock" }, !waits && [timer, bar], controls(shown)),
      phaseView(shown, question, given.hints, evidence.get(now.id) ?? null, note, (found) => {
        evidence.set(now.id, found);
        fill(alarm, warning(found));
      }),
    );
    spoken.textContent = taskOf(shown);
    const beat = () => {
      if (main.querySelector("[data-drawing]")) return;
      const at = Date.now();
      const moved = tick(/** @type {Session} */ (session), at);
      if (moved !== session) return go(moved);
      const left = remaining(moved, at);
      const whole = moved.seconds[/** @type {import("./session.js").Timed} */ (moved.phase)];
      const soon = left <= SOON;
      if (soon && !timer.classList.contains("soon") && moved.since !== null && left > 0)
        spoken.textContent = `${Math.ceil(left / 1000)} seconds left`;
      timer.classList.toggle("soon", soon);
      timer.textContent = left > 0 ? clockText(left) : `+${clockText(over(moved, at), Math.floor)}`;
      bar.value = left / (1000 * whole);
    };
    if (waits) return 0;
    beat();
    return window.setInterval(beat, 200);
  }

  /** @param {Session} shown */
  function controls(shown) {
    const act = (/** @type {(s: Session, now: number) => Session} */ change) => () =>
      go(change(/** @type {Session} */ (session), Date.now()));
    const waits = shown.phase === "ready";
    const stands = shown.since === null;
    const asked = shown.rounds.length - (waits ? 1 : 0);
    const last = shown.rounds.length === shown.order.length;
    const next = { ready: "Start the answer", answer: "To the feedback", feedback: "To the discussion",
      discussion: last ? "To the summary" : "Next question, roles swapped", done: "" }[shown.phase];
    return h("div", { class: "bar" },
      h("button", { class: "main", onclick: act(advance) }, next),
      !waits && h("button", { onclick: act(stands ? resume : pause) }, stands ? "Resume" : "Pause"),
      confirmButton("End the exam", asked ? "End it: to the summary" : "End it", act((s) => finish(s))));
  }

  show();
}

/** @param {Session} session */
function taskOf(session) {
  const { answering } = round(session);
  const phase = /** @type {keyof typeof TASKS} */ (session.phase);
  const who = { answer: session.names[answering], feedback: session.names[1 - answering] }[
    /** @type {string} */ (phase)];
  return who ? `${who} ${TASKS[phase]}` : TASKS[phase];
}

/** @param {Session} session */
function roundHead(session) {
  const { answering } = round(session);
  const role = (/** @type {0 | 1} */ person) =>
    h("p", { class: `role ${answering === person ? "answers" : "examines"}` },
      h("strong", {}, session.names[person]), " ",
      answering === person ? "answers" : "examines");
  const steps = TIMED.map((phase) =>
    h("li", { "aria-current": session.phase === phase && "step" },
      capital(phase)));
  return h("header", { class: "exam-head" },
    role(0), role(1),
    h("p", { class: "faint" }, `Question ${session.rounds.length} of ${session.order.length}`),
    h("ol", { class: "steps", "aria-label": "Steps" }, steps),
    h("p", { class: "task" }, taskOf(session)));
}

/**
 * What a phase is about: the pad, the key points, the experiment.
 * @param {Session} session
 * @param {Question} question
 * @param {string[]} hints
 * @param {Evidence | null} evidence
 * @param {(change: Partial<import("./session.js").Round>) => void} note
 * @param {(evidence: Evidence) => void} measured
 */
function phaseView(session, question, hints, evidence, note, measured) {
  const now = round(session);
  if (session.phase === "ready") return hintList(hints);
  const pad = sketchPad(now.strokes, (strokes) => note({ strokes }));
  if (session.phase === "answer") return h("div", { class: "two wide-first" }, pad, hintList(hints));
  const points = keyPoints(question, evidence, now, note);
  if (session.phase === "feedback")
    return h("div", { class: "two" }, points, h("div", {}, marksOf(now, note), pad));
  const notes = h("textarea", { rows: 4, id: "notes", oninput: () => note({ notes: notes.value }) });
  notes.value = now.notes;
  const laboratory = evidence
    ? evidenceView(question, evidence, measured)
    : h("p", {}, "This question has no experiment.");
  return h("div", { class: "two discussion" }, laboratory,
    h("div", {}, h("label", { for: "notes" }, "Notes of the discussion"), notes, points, pad));
}

const capital = (/** @type {string} */ word) => word[0].toUpperCase() + word.slice(1);

/** @param {string[]} hints */
function hintList(hints) {
  return h("aside", { class: "hints" }, h("h2", {}, "Hints for the one who answers"),
    h("ol", {}, hints.map((hint) => h("li", {}, hint))));
}

/**
 * @param {number} milliseconds
 * @param {(seconds: number) => number} whole
 */
function clockText(milliseconds, whole = Math.ceil) {
  const seconds = whole(milliseconds / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/**
 * @param {Question[]} questions
 * @param {any} given
 * @param {Map<string, Evidence | null>} evidence
 * @param {(plan: Parameters<typeof start>[0]) => void} begin
 */
function startView(questions, given, evidence, begin) {
  const names = ["A", "B"].map((value, n) =>
    h("input", { value, required: true, maxlength: 40, id: `name-${n}` }));
  const roles = ["Examines first", "Answers first"];
  const times = TIMED.map((phase) =>
    h("input", { type: "number", id: `time-${phase}`, min: 5, max: 3600, step: 5, required: true,
      value: given.seconds[phase] }));
  const boxes = questions.map((q) => h("input", { type: "checkbox", checked: true, id: `q-${q.id}` }));
  const problem = h("p", { role: "alert" });
  const length = h("p", { class: "faint" });
  const plan = () => {
    const asked = boxes.filter((box) => box.checked).length;
    const each = times.reduce((sum, input) => sum + (input.valueAsNumber || 0), 0);
    length.textContent = `${asked} of ${questions.length} questions, about ${Math.ceil((asked * each) / 60)} minutes. They are asked in random order.`;
  };
  const form = h("form", { oninput: plan },
    h("h1", {}, "Pair exam"),
    h("p", {}, "Two people at one screen. One examines, the other answers; after each question the roles swap."),
    h("div", { class: "two" },
      h("section", {}, h("h2", {}, "Who"),
        h("div", { class: "fields" }, names.map((input, n) => h("label", {}, roles[n], input)))),
      h("section", {}, h("h2", {}, "Seconds"),
        h("div", { class: "fields" }, TIMED.map((phase, n) => h("label", {}, capital(phase), times[n]))))),
    h("h2", {}, "Questions"),
    h("ul", { class: "plain questions" }, questions.map((q, n) =>
      h("li", {}, boxes[n], h("label", { for: boxes[n].id }, q.question), verdict(evidence.get(q.id) ?? null)))),
    length,
    problem,
    h("button", { class: "main", type: "submit" }, "Draw the first question"));
  plan();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = questions.filter((_, n) => boxes[n].checked).map((q) => q.id);
    if (!chosen.length) { problem.textContent = "Choose at least one question."; return; }
    begin({
      names: /** @type {[string, string]} */ (names.map((input) => input.value.trim() || "?")),
      seconds: /** @type {any} */ (Object.fromEntries(TIMED.map((p, n) => [p, times[n].valueAsNumber]))),
      order: shuffled(chosen),
    });
  });
  return h("div", {}, form, hintList(given.hints));
}
