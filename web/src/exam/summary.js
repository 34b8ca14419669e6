// The end: what was asked, how it went; to print, or to keep as one file.
import { h } from "../dom.js";
import { confirmButton } from "./confirm.js";
import { formula } from "./formula.js";
import { picture } from "./pad.js";
import { CRITERIA, isMissed, isSolo, shuffled, WORTH } from "./session.js";

const WORDS = { said: "✓", partly: "~", missed: "✗" };

/**
 * @param {import("./session.js").Session} session
 * @param {Map<string, import("./session.js").Question>} questions
 * @param {Map<string, import("./evidence.js").Evidence | null>} evidence
 * @param {(plan: Parameters<typeof import("./session.js").start>[0]) => void} begin
 * @param {() => void} anew
 */
export function summaryView(session, questions, evidence, begin, anew) {
  const when = new Date(session.began ?? Date.now());
  const report = h("article", { class: "summary" },
    h("h1", {}, `${isSolo(session) ? "Exam" : "Pair exam"} of ${session.names.join(" and ")}`),
    h("p", { class: "faint" }, when.toLocaleDateString("en-GB", { dateStyle: "long" })),
    session.rounds.length ? totals(session, questions) : h("p", {}, "No question was answered."),
    session.rounds.map((round) =>
      roundView(session, round, /** @type {any} */ (questions.get(round.id)), evidence.get(round.id) ?? null)));
  const missed = missedIn(session, questions);
  const { names, seconds } = session;
  const bar = h("div", { class: "bar" },
    missed.length > 0 && confirmButton(`Ask again what was missed (${missed.length})`, "Discard this one, and ask",
      () => begin({ names, seconds, order: shuffled(missed) })),
    h("button", { class: "main", onclick: () => save(report) }, "Keep as a file"),
    h("button", { onclick: () => window.print() }, "Print"),
    confirmButton("A new exam", "Discard this one", anew));
  return h("div", {}, bar, report);
}

/**
 * The questions that were missed when they were asked last.
 * @param {import("./session.js").Session} session
 * @param {Map<string, import("./session.js").Question>} questions
 */
function missedIn(session, questions) {
  const last = new Map(session.rounds.map((round) => [round.id, round]));
  return [...last.values()].flatMap((round) => {
    const question = questions.get(round.id);
    return question && isMissed(round, question) ? [round.id] : [];
  });
}

/**
 * What each of the two has reached.
 * @param {import("./session.js").Session} session
 * @param {Map<string, import("./session.js").Question>} questions
 */
function totals(session, questions) {
  const head = ["", "Answers", "Key points", "Bonus points", ...CRITERIA.map(([, label]) => label)];
  const rows = session.names.map((name, person) => {
    const rounds = session.rounds.filter((round) => round.answering === person);
    const counts = [false, true].map((bonus) => {
      const marks = rounds.flatMap((round) =>
        (questions.get(round.id)?.points ?? []).flatMap((point, n) =>
          point.bonus === bonus ? [round.points[n]] : []));
      return share(marks);
    });
    const criteria = CRITERIA.map(([key]) => share(rounds.map((round) => round.criteria[key])));
    return h("tr", {}, h("th", { scope: "row" }, name),
      [rounds.length, ...counts, ...criteria].map((cell) => h("td", {}, cell)));
  });
  return h("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "Totals" },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((t) => (t ? h("th", { scope: "col" }, t) : h("td"))))),
      h("tbody", {}, rows)),
    h("p", { class: "faint" }, "✓ yes counts 1, ~ partly ½, ✗ no and · not marked 0."));
}

/** @param {(import("./session.js").Mark | null | undefined)[]} marks */
function share(marks) {
  const sum = marks.reduce((total, mark) => total + (mark ? WORTH[mark] : 0), 0);
  return marks.length ? `${sum} of ${marks.length}` : "–";
}

/**
 * @param {import("./session.js").Session} session
 * @param {import("./session.js").Round} round
 * @param {import("./session.js").Question} question
 * @param {import("./evidence.js").Evidence | null} evidence
 */
function roundView(session, round, question, evidence) {
  const result = evidence?.result;
  const criteria = CRITERIA.filter(([key]) => round.criteria[key])
    .map(([key, label]) => `${label} ${WORDS[/** @type {"said"} */ (round.criteria[key])]}`);
  return h("section", {},
    h("h2", {}, question.question),
    h("p", {}, `${session.names[round.answering]} answered in ${Math.round(round.spent / 1000)} s. `,
      criteria.join("  ")),
    h("ol", { class: "plain" }, question.points.map((point, n) =>
      h("li", {}, `${WORDS[/** @type {"said"} */ (round.points[n])] ?? "·"} ${point.bonus ? "Bonus: " : ""}`,
        point.lead && [h("strong", {}, ...formula(point.lead)), ". "], formula(point.text), " ",
        h("span", { class: "faint" }, `(${point.source})`)))),
    result && h("p", { class: result.holds ? "faint" : "fails" },
      `Laboratory: ${evidence.experiment}, ${result.quick ? "quick" : "full"} form, seed ${result.seed}, `,
      `${result.date}: ${result.holds ? "every claim holds" : "not every claim holds"}.`),
    round.notes && h("p", { class: "notes" }, round.notes),
    round.strokes.length > 0 && h("img", { src: picture(round.strokes), alt: "The sketch" }));
}

/** @param {HTMLElement} report */
function save(report) {
  const style = "body{font:16px/1.5 sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}" +
    "img{max-width:30rem;width:100%;border:1px solid #999}table{border-collapse:collapse}" +
    "th,td{text-align:left;padding:.2rem .8rem .2rem 0}.fails{color:#a33a00}.faint{color:#595d63}.notes{white-space:pre-wrap}" +
    "ol{list-style:none;padding:0}";
  const page = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Pair exam</title>` +
    `<style>${style}</style><body>${report.innerHTML}</body></html>`;
  const address = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  h("a", { href: address, download: "pair-exam.html" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
