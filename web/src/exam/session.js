// The exam as a value: what has happened, and what time does to it. No page, no clock of
// its own: every change is a function (session, …, now) -> session, with `now` in
// milliseconds of the wall clock, so that it goes on through a reload.

/** @typedef {{lead: string, text: string, source: string, formula: string, claim: string, bonus: boolean}} KeyPoint */
/**
 * @typedef {{id: string, question: string, points: KeyPoint[], experiment: string, figure: string,
 *   sketch: string}} Question
 */
/** @typedef {"answer" | "feedback" | "discussion"} Timed */
/** @typedef {"ready" | Timed | "done"} Phase */
/** @typedef {"said" | "partly" | "missed"} Mark */
/**
 * @typedef {object} Round
 * @property {string} id the question
 * @property {number} answering which of the two answers, 0 or 1; the other examines
 * @property {(Mark | null)[]} points the examiner's marks of the key points
 * @property {Record<string, Mark | null>} criteria
 * @property {string} notes
 * @property {import("./pad.js").Stroke[]} strokes
 * @property {number} spent milliseconds of answering
 */
/**
 * @typedef {object} Session
 * @property {1} version
 * @property {number} began when, in milliseconds of the wall clock
 * @property {string[]} names of the two, or of the one who is alone
 * @property {Record<Timed, number>} seconds
 * @property {string[]} order the questions still and already drawn, in order; one that was
 *   missed stands there again
 * @property {Phase} phase
 * @property {number} left milliseconds that the phase had left at `since`
 * @property {number | null} since when it last began to run; null: it stands still
 * @property {Round[]} rounds one a question drawn so far
 */

/** @type {Mark[]} */
export const MARKS = ["said", "partly", "missed"];
/** @type {Record<Mark, number>} */
export const WORTH = { said: 1, partly: 0.5, missed: 0 };
/** @type {Timed[]} */
export const TIMED = ["answer", "feedback", "discussion"];
export const CRITERIA = [
  ["correct", "Correct?"],
  ["precise", "Precise?"],
  ["order", "High to low level?"],
  ["sketch", "Useful sketch?"],
];

/**
 * @param {{names: string[], seconds: Record<Timed, number>, order: string[]}} plan
 * @param {number} now
 * @returns {Session}
 */
export function start({ names, seconds, order }, now) {
  /** @type {Session} */
  const session = {
    version: 1, began: now, names, seconds, order, phase: "ready", left: 0, since: null, rounds: [],
  };
  return draw(session);
}

/** @param {Session} session */
export const round = (session) => session.rounds[session.rounds.length - 1];

/** @param {Session} session */
export const isSolo = (session) => session.names.length === 1;

/**
 * Who acts in this phase: the one who answers, the one who gives feedback, or both.
 * @param {Session} session
 */
export function acting(session) {
  const { answering } = round(session);
  if (isSolo(session)) return [0];
  return { feedback: [1 - answering], discussion: [0, 1] }[/** @type {string} */ (session.phase)] ?? [answering];
}

/**
 * Whether the examiner marked less than half of a question's key points as said.
 * @param {Round} round
 * @param {Question} question
 */
export function isMissed(round, question) {
  const marks = question.points.flatMap((point, n) => (point.bonus ? [] : [round.points[n] ?? null]));
  const given = marks.filter((mark) => mark !== null);
  return given.length > 0 && given.reduce((sum, mark) => sum + WORTH[mark], 0) < marks.length / 2;
}

/**
 * Let the present question come again at the end, if it was missed.
 * @param {Session} session
 * @param {Question} question
 * @returns {Session}
 */
export function repeatMissed(session, question) {
  return isMissed(round(session), question) ? { ...session, order: [...session.order, question.id] } : session;
}

/**
 * The next question with roles swapped, or the end. A question that comes again is for the
 * one who missed it.
 * @param {Session} session
 * @returns {Session}
 */
function draw(session) {
  const drawn = session.rounds.length;
  if (drawn === session.order.length) return finish(session);
  const id = session.order[drawn];
  const before = session.rounds.findLast((earlier) => earlier.id === id);
  const turn = isSolo(session) || drawn % 2 ? 0 : 1;
  /** @type {Round} */
  const next = {
    id,
    answering: before?.answering ?? turn,
    points: [],
    criteria: {},
    notes: "",
    strokes: [],
    spent: 0,
  };
  return { ...session, phase: "ready", left: 0, since: null, rounds: [...session.rounds, next] };
}

/**
 * @param {Session} session
 * @returns {Session}
 */
export function finish(session) {
  const rounds = session.phase === "ready" ? session.rounds.slice(0, -1) : session.rounds;
  return { ...session, rounds, phase: "done", left: 0, since: null };
}

/**
 * Go to the phase after this one, at `now`.
 * @param {Session} session
 * @param {number} now
 * @returns {Session}
 */
export function advance(session, now) {
  if (session.phase === "done") return session;
  if (session.phase === "discussion") return draw(session);
  const next = session.phase === "ready" ? "answer" : TIMED[TIMED.indexOf(session.phase) + 1];
  if (session.phase === "answer")
    session = edit(session, { spent: session.seconds.answer * 1000 - remaining(session, now) });
  return { ...session, phase: next, left: session.seconds[next] * 1000, since: now };
}

/**
 * Milliseconds to the end of the phase's time; below 0 after it.
 * @param {Session} session
 * @param {number} now
 */
const balance = (session, now) =>
  session.since === null ? session.left : session.left - (now - session.since);

/**
 * Milliseconds that the phase has left.
 * @param {Session} session
 * @param {number} now
 */
export const remaining = (session, now) => Math.max(0, balance(session, now));

/**
 * Milliseconds beyond the time of the phase.
 * @param {Session} session
 * @param {number} now
 */
export const over = (session, now) => Math.max(0, -balance(session, now));

/**
 * Whether what was saved is an exam of these questions.
 * @param {any} saved
 * @param {(id: string) => boolean} known
 * @returns {saved is Session}
 */
export function isSession(saved, known) {
  return saved?.version === 1 && [saved.names, saved.order, saved.rounds].every(Array.isArray) &&
    saved.order.every(known);
}

/**
 * What the wall clock did meanwhile: phases whose time is over give way to the next, as
 * of the time at which it was over. The discussion alone may take longer: it waits.
 * @param {Session} session
 * @param {number} now
 * @returns {Session}
 */
export function tick(session, now) {
  while (session.since !== null && session.phase !== "discussion" && remaining(session, now) === 0)
    session = advance(session, session.since + session.left);
  return session;
}

/**
 * @param {Session} session
 * @param {number} now
 * @returns {Session}
 */
export function pause(session, now) {
  return { ...session, left: balance(session, now), since: null };
}

/**
 * @param {Session} session
 * @param {number} now
 * @returns {Session}
 */
export function resume(session, now) {
  return { ...session, since: now };
}

/**
 * Change the present round.
 * @param {Session} session
 * @param {Partial<Round>} change
 * @returns {Session}
 */
export function edit(session, change) {
  const rounds = [...session.rounds];
  rounds[rounds.length - 1] = { ...round(session), ...change };
  return { ...session, rounds };
}

/**
 * Mark a key point or a criterion of the present round.
 * @param {Session} session
 * @param {"points" | "criteria"} kind
 * @param {number | string} key
 * @param {Mark} mark
 * @returns {Session}
 */
export function mark(session, kind, key, mark) {
  const { points, criteria } = round(session);
  if (kind === "criteria") return edit(session, { criteria: { ...criteria, [key]: mark } });
  const marks = Array.from({ length: Math.max(points.length, Number(key) + 1) }, (_, n) => points[n] ?? null);
  marks[Number(key)] = mark;
  return edit(session, { points: marks });
}

/**
 * A shuffled copy (Fisher and Yates).
 * @template T
 * @param {T[]} items
 * @returns {T[]}
 */
export function shuffled(items) {
  const copy = [...items];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}
