// The examiner's page, on a second screen: the key points during the answer, to be marked. The
// exam's page keeps the session; this one reads it every second, and sends marks.
import { get, post } from "../api.js";
import { fill, h } from "../dom.js";
import { clock } from "./clock.js";
import { formula } from "./formula.js";
import { shortcuts } from "./keys.js";
import { KEYS_OF_MARKS, keyPoints, markByKey, marksOf, showMarks } from "./marks.js";
import { capital } from "./roles.js";
import { isSession, isSolo, round } from "./session.js";
import { figureOf } from "./zoom.js";

/** @typedef {import("./session.js").Question} Question */
/** @typedef {import("./session.js").Session} Session */

const POLL = 1000; // milliseconds between two looks at the session
const BEAT = 200; // milliseconds between two looks at the clock

/** @param {HTMLElement} root */
export async function examiner(root) {
  const given = await get("/api/exam");
  /** @type {Map<string, Question>} */
  const questions = new Map(given.questions.map((/** @type {Question} */ q) => [q.id, q]));
  const trouble = h("p", { role: "alert", class: "error", hidden: true });
  const main = h("main", { class: "examiner" });
  root.append(trouble, main);
  const time = clock(() => {});
  /** @type {Session | null} */
  let session = null;
  let ahead = 0; // milliseconds by which the server's clock is ahead of this one's
  let phase = "";
  let marks = "";

  /** @param {Session | null} found */
  function show(found) {
    session = found;
    const now = found?.phase === "done" ? null : found;
    const next = JSON.stringify(now && [now.began, now.rounds.length, now.phase, round(now).id]);
    const { points, criteria } = now ? round(now) : { points: null, criteria: null };
    const given = JSON.stringify([points, criteria]);
    if (next !== phase) fill(main, now ? roundView(now) : waitingView("No question is asked at present."));
    else if (now && given !== marks) showMarks(main, round(now));
    [phase, marks] = [next, given];
  }

  /** @param {Session} now */
  function roundView(now) {
    const question = /** @type {Question} */ (questions.get(round(now).id));
    if (isSolo(now)) return waitingView(`${now.names[0]} is alone, and marks the answers on the exam's page.`);
    const name = now.names[1 - round(now).answering];
    if (now.phase === "ready")
      return waitingView(`${name} examines next. The key points appear here as soon as the answer begins.`);
    const where = { began: now.began, round: now.rounds.length };
    const marked = (/** @type {any} */ kind, /** @type {any} */ key, /** @type {any} */ mark) =>
      post("/api/marks", { ...where, kind, key, mark }).catch(tell);
    const keys = shortcuts(KEYS_OF_MARKS, (key) => markByKey(main, key));
    return [
      h("p", { class: "role acts" }, h("strong", {}, name), " examines"),
      h("h1", { class: "question" }, question.question),
      h("div", { class: "clock" }, h("p", { class: "phase" }, capital(now.phase)), time.view),
      h("div", { class: "two" }, keyPoints(question, given.evidence[question.id], round(now), marked),
        h("div", {}, marksOf(round(now), marked), figureOf(question, formula(question.sketch)))),
      h("footer", { class: "foot" }, keys),
    ];
  }

  /** @param {Error | null} error */
  function tell(error) {
    trouble.hidden = !error;
    trouble.textContent = error && `The exam's server does not answer: ${error.message}.`;
  }

  let looking = false; // one look at a time: a late one would show what has passed
  async function look() {
    if (looking) return;
    looking = true;
    const answer = await get("/api/session").catch(tell);
    looking = false;
    if (!answer) return;
    tell(null);
    ahead = answer.now - Date.now();
    show(isSession(answer.session, (id) => questions.has(id)) ? answer.session : null);
  }

  const beat = () => {
    if (session && !["ready", "done"].includes(session.phase)) time.show(session, Date.now() + ahead);
  };
  await look();
  beat();
  setInterval(look, POLL);
  setInterval(beat, BEAT);
}

/** @param {string} text */
const waitingView = (text) => [h("h1", {}, "The examiner's page"), h("p", {}, text)];
