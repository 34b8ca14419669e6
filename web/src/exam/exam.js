// The exam's page: shows the session, handles the input of both people, saves every change.
import { get, take } from "../api.js";
import { fill, h } from "../dom.js";
import { clock } from "./clock.js";
import { confirmButton } from "./confirm.js";
import { evidenceView, warning } from "./evidence.js";
import { formula } from "./formula.js";
import { shortcuts } from "./keys.js";
import { KEYS_OF_MARKS, keyPoints, markByKey, marksOf, showMarks } from "./marks.js";
import { sketchPad } from "./pad.js";
import { roundHead, taskOf } from "./roles.js";
import { saver } from "./save.js";
import {
  advance, edit, finish, isMissed, isSession, isSolo, mark, pause, repeatMissed, resume, round,
  start, tick,
} from "./session.js";
import { hintList, startView } from "./start.js";
import { summaryView } from "./summary.js";
import { figureOf } from "./zoom.js";

/** @typedef {import("./session.js").Question} Question */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./evidence.js").Evidence} Evidence */
/** What a part of the page does to the present round.
 * @typedef {object} Changes
 * @property {(change: Partial<import("./session.js").Round>) => void} note
 * @property {import("./marks.js").Marked} marked
 * @property {(evidence: Evidence) => void} measured
 */

const BEAT = 200; // milliseconds between two looks at the clock
const TAKE = 1000; // milliseconds between two looks for the examiner's marks

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
  /** @param {Parameters<typeof start>[0]} plan */
  const begin = (plan) => go(start(plan, Date.now()));

  /** @type {number[]} */
  let timers = [];
  function show() {
    timers.forEach(clearInterval);
    timers = [];
    if (!session) fill(main, startView([...questions.values()], given, evidence, begin));
    else if (session.phase === "done") fill(main, summaryView(session, questions, evidence, begin, () => go(null)));
    else showRound(session);
  }

  /** @param {Session} shown */
  function showRound(shown) {
    const now = round(shown);
    const question = /** @type {Question} */ (questions.get(now.id));
    const waits = shown.phase === "ready";
    const time = clock((text) => { spoken.textContent = text; });
    const alarm = h("div", {}, warning(evidence.get(now.id) ?? null));
    const controls = controlsOf(shown, question);
    /** @param {Session} next */
    const changed = (next) => { update(next); controls.refresh(next); };
    /** @type {Changes} */
    const changes = {
      note: (change) => changed(edit(/** @type {Session} */ (session), change)),
      marked: (kind, key, given) => changed(mark(/** @type {Session} */ (session), kind, key, given)),
      measured: (found) => { evidence.set(now.id, found); fill(alarm, warning(found)); },
    };
    fill(
      main,
      roundHead(shown),
      h("h1", { class: "question" }, question.question),
      alarm,
      h("div", { class: "clock" }, !waits && time.view, controls.view),
      phaseView(shown, question, given.hints, evidence.get(now.id) ?? null, changes),
      controls.foot,
    );
    spoken.textContent = taskOf(shown);
    if (waits) return;
    const beat = () => {
      if (main.querySelector("[data-drawing]")) return;
      const moved = tick(/** @type {Session} */ (session), Date.now());
      if (moved !== session) go(moved);
      else time.show(moved, Date.now());
    };
    beat();
    timers = [window.setInterval(beat, BEAT)];
    if (!isSolo(shown)) timers.push(window.setInterval(() => takeMarks(changes), TAKE));
  }

  let taking = false;
  /**
   * The marks that the examiner's page made for this round.
   * @param {Changes} changes
   */
  async function takeMarks(changes) {
    if (taking) return;
    taking = true;
    const made = await take("/api/marks").catch(() => []); // saving tells of a lost server
    taking = false;
    for (const { began, round: number, kind, key, mark } of made)
      if (began === session?.began && number === session?.rounds.length) changes.marked(kind, key, mark);
    if (made.length && session?.rounds.length) showMarks(main, round(session));
  }

  /**
   * The buttons of a phase and their keys.
   * @param {Session} shown
   * @param {Question} question
   */
  function controlsOf(shown, question) {
    const act = (/** @type {(s: Session, now: number) => Session} */ change) => () =>
      go(change(/** @type {Session} */ (session), Date.now()));
    const waits = shown.phase === "ready";
    const stands = shown.since === null;
    const asked = shown.rounds.length - (waits ? 1 : 0);
    const discusses = shown.phase === "discussion";
    const next = h("button", { class: "main",
      onclick: act((s, now) => advance(discusses ? repeatMissed(s, question) : s, now)) });
    const hold = h("button", { onclick: act(stands ? resume : pause) }, stands ? "Resume" : "Pause");
    const again = h("p", { class: "again", role: "status" });
    const refresh = (/** @type {Session} */ session) => {
      const missed = discusses && isMissed(round(session), question);
      next.textContent = labelOfNext(session, missed);
      again.textContent = missed ? "Missed: this question comes again at the end." : "";
    };
    refresh(shown);
    const help = `N next, ${waits ? "" : "P pause, "}${discusses || shown.phase === "feedback" ? KEYS_OF_MARKS : ""}`;
    const keys = shortcuts(help.replace(/, $/, ""), (key) => {
      if (key === "n") return () => next.click();
      if (key === "p" && !waits) return () => hold.click();
      return markByKey(main, key);
    });
    const foot = h("footer", { class: "foot" }, keys,
      !isSolo(shown) && h("a", { href: "/examiner", target: "_blank" }, "The examiner's page, for a second screen"),
      confirmButton("End the exam", asked ? "End it: to the summary" : "End it", act((s) => finish(s))));
    return { view: [h("div", { class: "bar" }, next, !waits && hold), again], foot, refresh };
  }

  show();
}

/**
 * @param {Session} session
 * @param {boolean} missed whether the present question comes again
 */
function labelOfNext(session, missed) {
  const labels = { ready: "Start the answer", answer: "To the feedback", feedback: "To the discussion" };
  const label = labels[/** @type {keyof typeof labels} */ (session.phase)];
  if (label) return label;
  const { order, rounds } = session;
  const following = rounds.length < order.length;
  if (!following && !missed) return "To the summary";
  const repeats = following ? order.indexOf(order[rounds.length]) < rounds.length : true;
  return isSolo(session) || repeats ? "Next question" : "Next question, roles swapped";
}

/**
 * What a phase is about: the pad, the key points, the experiment.
 * @param {Session} session
 * @param {Question} question
 * @param {string[]} hints
 * @param {Evidence | null} evidence
 * @param {Changes} changes
 */
function phaseView(session, question, hints, evidence, changes) {
  const now = round(session);
  if (session.phase === "ready") return hintList(hints);
  const pad = sketchPad(now.strokes, (strokes) => changes.note({ strokes }));
  if (session.phase === "answer") return h("div", { class: "two wide-first" }, pad, hintList(hints));
  const points = keyPoints(question, evidence, now, changes.marked);
  const figure = figureOf(question, formula(question.sketch));
  if (session.phase === "feedback")
    return h("div", { class: "two" }, points, h("div", {}, marksOf(now, changes.marked), pad, figure));
  const notes = h("textarea", { rows: 4, id: "notes", oninput: () => changes.note({ notes: notes.value }) });
  notes.value = now.notes;
  const laboratory = evidence
    ? evidenceView(question, evidence, changes.measured)
    : h("p", {}, "This question has no experiment.");
  return h("div", { class: "two discussion" },
    h("div", {}, laboratory, figure),
    h("div", {}, h("label", { for: "notes" }, "Notes of the discussion"), notes, points, pad));
}
