// A run of pairs: an input, the outputs that the search finds, and where the decoder looked.
import { get, post } from "../api.js";
import { fail, fill, h } from "../dom.js";
import { css, legend, levelPixels, pixels, PALE, scaleOf, short } from "../inspect/colour.js";
import { visible } from "../inspect/selection.js";
import { newest } from "../newest.js";

/** @typedef {{low: number, high: number, rows: number, columns: number, data: string}} Levels */
/** @typedef {{tokens: string[], text: string, score: number, attention: number[][] | null, decoder: Record<string, Levels>}} Output */
/** @typedef {{input: string[], encoder: Record<string, Levels>, outputs: Output[]}} Look */
/** @typedef {{run: string, parameters: number, cells: Record<string, string[]>, beam: number, widest: number, inputs: string[]}} Description */

/** The server. */
export class PairSource {
  free = true; // any input may be typed
  /** @returns {Promise<Description>} */
  describe() { return get("/api/pairs"); }
  /** @param {string} text @param {number} beam @returns {Promise<Look>} */
  look(text, beam) { return post("/api/look", { text, beam }); }
}

/** A report: the looks that it holds. */
export class PairReport {
  free = false;
  /** @param {{pairs: Description, looks: Look[]}} data */
  constructor(data) { this.data = data; }
  async describe() { return this.data.pairs; }
  /** @param {string} text */
  async look(text) { return this.data.looks[this.data.pairs.inputs.indexOf(text)]; }
}

/**
 * @param {HTMLElement} root
 * @param {PairSource | PairReport} source
 */
export async function pairs(root, source) {
  const run = await source.describe();
  const results = h("div", { "aria-live": "polite" });
  const text = source.free
    ? h("input", { id: "input", value: run.inputs[0] ?? "", autocomplete: "off", size: 40, list: "inputs" })
    : h("select", { id: "input", onchange: show }, run.inputs.map((input) => h("option", {}, input)));
  const beam = h("input", { id: "beam", type: "number", min: 1, max: run.widest, value: run.beam });
  const offered = h("datalist", { id: "inputs" }, run.inputs.map((input) => h("option", { value: input })));
  const begin = newest();

  async function show() {
    const current = begin();
    if (!text.value) return;
    try {
      const found = await source.look(text.value, Number(beam.value));
      if (current()) fill(results, looked(found));
    } catch (error) {
      if (!current()) return;
      fill(results);
      fail(results, error);
    }
  }

  fill(root,
    h("main", {}, h("h1", {}, run.run),
      h("p", { class: "faint" }, `${run.cells.encoder[0]} read by ${run.cells.decoder[0]}, ${run.parameters.toLocaleString("en")} parameters`),
      h("form", { class: "bar", onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); show(); } },
        h("label", { for: "input" }, "Input "), text, source.free && offered,
        source.free && [h("label", { for: "beam" }, " Beam "), beam, h("button", {}, "Apply")]),
      results,
      Object.entries(run.cells).map(([side, [name, ...lines]]) =>
        h("details", {}, h("summary", {}, `${side}: ${name}`), h("pre", {}, lines.join("\n"))))));
  await show();
}

/** The outputs, and all about the one that is chosen. @param {Look} found */
function looked(found) {
  const about = h("div");
  const rows = found.outputs.map((output, n) =>
    h("tr", {}, h("td", {}, h("button", { "aria-pressed": "false", onclick: () => choose(n) }, output.text || "(empty)")),
      h("td", {}, short(output.score))));

  /** @param {number} chosen */
  function choose(chosen) {
    rows.forEach((row, n) => row.querySelector("button")?.setAttribute("aria-pressed", String(n === chosen)));
    const output = found.outputs[chosen];
    fill(about,
      output.attention && attention(output.attention, found.input, output.tokens),
      gates("Encoder", found.encoder, found.input),
      gates("Decoder", output.decoder, output.tokens));
  }

  choose(0);
  return [h("table", { class: "outputs" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Output"), h("th", { scope: "col" }, "Score"))),
    h("tbody", {}, rows)), about];
}

/**
 * The weights of the input's tokens as each token of the output is written.
 * @param {number[][]} weights
 * @param {string[]} input
 * @param {string[]} output
 */
function attention(weights, input, output) {
  const scale = scaleOf(0, 1, { rising: PALE });
  const cell = (/** @type {number} */ weight, /** @type {number} */ t, /** @type {number} */ s) => {
    const td = h("td", { title: `“${visible(output[t])}” looks at “${visible(input[s])}”: ${short(weight)}` });
    td.style.backgroundColor = css(scale.rgb(weight)); // the pages' policy allows no style attribute
    return td;
  };
  const table = h("table", { class: "attention", "aria-label": "Attention: outputs from top to bottom, inputs from left to right" },
    h("thead", {}, h("tr", {}, h("td"), input.map((piece) => h("th", { scope: "col" }, visible(piece))))),
    h("tbody", {}, weights.map((row, t) =>
      h("tr", {}, h("th", { scope: "row" }, visible(output[t])), row.map((weight, s) => cell(weight, t, s))))));
  return h("section", {}, h("h2", {}, "Attention"), legend(scale, "weight of an input token"), table);
}

/**
 * Every named value of one side: units from top to bottom, tokens from left to right.
 * @param {string} title
 * @param {Record<string, Levels>} values
 * @param {string[]} tokens
 */
function gates(title, values, tokens) {
  const shown = h("div");
  const names = h("select", { "aria-label": `${title}: value`, onchange: draw }, Object.keys(values).map((name) => h("option", {}, name)));

  function draw() {
    const { low, high, rows, columns, data } = values[names.value];
    const scale = scaleOf(low, high);
    const canvas = h("canvas", { class: "heat gates", width: columns, height: rows, role: "img",
      "aria-label": `${title} ${names.value}: ${rows} units over ${columns} tokens` });
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(columns, rows);
    const colours = levelPixels(scale, pixels(scale), low, high), out = new Uint32Array(image.data.buffer), levels = atob(data);
    for (let n = 0; n < out.length; n++) out[n] = colours[levels.charCodeAt(n)];
    context.putImageData(image, 0, 0);
    fill(shown, legend(scale, names.value), h("div", { class: "tokens" }, tokens.map((token) => h("span", {}, visible(token)))), canvas);
  }

  draw();
  return h("section", {}, h("h2", {}, title), names, shown);
}
