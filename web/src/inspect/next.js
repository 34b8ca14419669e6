// What the model expected, token by token: surprisal under the text, and the alternatives.
import { fill, h } from "../dom.js";
import { legend, PALE, scaleOf, usual } from "./colour.js";
import { paintedText } from "./text.js";
import { visible } from "./selection.js";

/** @param {import("./inspect.js").Context} context */
export async function nextView({ source, run, selection, go }) {
  const predictions = await source.json("predictions");
  const known = predictions.surprisal.filter((/** @type {any} */ v) => v !== null);
  const scale = scaleOf(0, usual(known)[1], { rising: PALE });
  const { box, paint } = paintedText(run.pieces, selection);
  paint(predictions.surprisal, scale);
  box.addEventListener("click", () => go("flow"));
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") go("flow"); });
  const side = h("aside", { class: "hints", "aria-live": "polite" });
  selection.listen(() => {
    const step = selection.step;
    if (predictions.surprisal[step] === null) { fill(side, h("p", {}, "Nothing came before the first token.")); return; }
    fill(side,
      h("h2", {}, `“${visible(run.pieces[step])}”, step ${step}`),
      h("p", {}, `surprisal ${predictions.surprisal[step].toFixed(2)} nats, rank ${predictions.rank[step]}, ` +
        `entropy of the prediction ${predictions.entropy[step].toFixed(2)} nats`),
      bars(predictions.top[step].map((/** @type {number} */ token, /** @type {number} */ n) =>
        ({ piece: predictions.vocabulary[token], chance: predictions.chances[step][n] })), run.pieces[step]));
  });
  return h("section", {}, legend(scale, "surprisal, nats", { low: 0, high: Math.max(...known) }),
    h("div", { class: "beside" }, box, side));
}

/**
 * The likeliest tokens as bars.
 * @param {{piece: string, chance: number}[]} tokens
 * @param {string} [truth] is marked
 */
export function bars(tokens, truth) {
  return h("table", { class: "bars" }, h("tbody", {}, tokens.map(({ piece, chance }) => {
    const bar = h("span", { class: "chance" });
    bar.style.width = `${100 * chance}%`;
    return h("tr", { class: piece === truth && "truth" },
      h("th", { scope: "row" }, visible(piece)),
      h("td", { class: "number" }, `${(100 * chance).toFixed(1)} %`),
      h("td", { class: "wide-bar" }, bar));
  })));
}
