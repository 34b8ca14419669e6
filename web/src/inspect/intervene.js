// Set or scale a unit or a gate, and see what the model loses.
import { fail, fill, h } from "../dom.js";
import { legend, scaleOf, usual } from "./colour.js";
import { paintedText } from "./text.js";
import { visible } from "./selection.js";

/** @typedef {{key: string, kind: string, amount: number, unit: number | null}} Change */

/** @param {import("./inspect.js").Context} context */
export async function interveneView({ source, run, selection }) {
  /** @type {Change[]} */
  let changes = [];
  const list = h("ul", { class: "plain" });
  const result = h("div", { "aria-live": "polite" });
  let stop = () => {}; // what shows the last result
  const kind = h("select", { "aria-label": "What to do" },
    h("option", { value: "zero" }, "set to 0"), h("option", { value: "clamp" }, "set to"), h("option", { value: "scale" }, "multiply by"));
  const amount = h("input", { type: "number", step: 0.1, value: 0.5, class: "unit", "aria-label": "Amount", hidden: true });
  kind.addEventListener("change", () => { amount.hidden = kind.value === "zero"; });
  const all = h("input", { type: "checkbox", id: "all-units" });
  const add = () => {
    const zero = kind.value === "zero";
    changes = [...changes, { key: selection.key, kind: zero ? "clamp" : kind.value,
      amount: zero ? 0 : amount.valueAsNumber || 0, unit: all.checked ? null : selection.unit }];
    apply();
  };

  async function apply() {
    fill(list, changes.map((change, n) => h("li", {}, words(change), " ",
      h("button", { class: "link", onclick: () => { changes = changes.filter((_, m) => m !== n); apply(); } }, "undo"))));
    stop();
    const asked = changes;
    if (!asked.length) { fill(result); return; }
    fill(result, h("p", {}, "reading again …"));
    try {
      const found = await source.intervene(asked);
      if (asked !== changes) return; // the changes are others meanwhile
      const shown = view(run, selection, found);
      stop = shown.stop;
      fill(result, shown.element);
    } catch (error) {
      if (asked !== changes) return;
      fill(result);
      fail(result, error);
    }
  }

  return h("section", {},
    h("p", {}, "At every step, ", selection.valuePicker(), " ", selection.unitPicker(), " ",
      all, h("label", { for: "all-units" }, " all units"), ": ", kind, " ", amount, " ",
      h("button", { class: "main", onclick: add }, "Read again")),
    list, result);
}

/** @param {Change} change */
function words({ key, kind, amount, unit }) {
  const what = unit === null ? `all of ${key}` : `unit ${unit} of ${key}`;
  return kind === "clamp" ? `${what} set to ${amount}` : `${what} multiplied by ${amount}`;
}

/** A number with its sign. @param {number} value @param {number} digits */
const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

/**
 * @param {import("./inspect.js").Description} run
 * @param {import("./selection.js").Selection} selection
 * @param {any} found
 */
function view(run, selection, { before, after, difference, next }) {
  const known = difference.filter((/** @type {number | null} */ d) => d !== null);
  const end = Math.max(0.1, ...usual(known).map(Math.abs));
  const scale = scaleOf(-end, end);
  const readout = h("p", { class: "readout" });
  const { box, paint, stop: unmark } = paintedText(run.pieces, selection);
  paint(difference, scale);
  const unlisten = selection.listen(() => {
    const { step } = selection;
    readout.textContent = difference[step] === null ? "" :
      `step ${step}, “${visible(run.pieces[step])}”: ${signed(difference[step], 2)} nats`;
  });
  const element = h("div", {},
    h("p", { class: "guide" }, `The loss goes from ${before.toFixed(3)} to ${after.toFixed(3)} nats a token (${signed(after - before, 3)}).`),
    legend(scale, "nats more (orange) or less (blue)", { low: Math.min(...known), high: Math.max(...known) }), readout,
    h("div", { class: "beside" }, box,
      h("aside", { class: "hints" }, h("h2", {}, "After the last token"),
        h("table", {}, h("thead", {}, h("tr", {}, ["token", "before", "after"].map((t) => h("th", { scope: "col" }, t)))),
          h("tbody", {}, next.map((/** @type {any} */ n) => h("tr", {}, h("th", { scope: "row" }, visible(n.piece)),
            h("td", {}, `${(100 * n.before).toFixed(1)} %`), h("td", {}, `${(100 * n.after).toFixed(1)} %`))))))));
  return { element, stop: () => { unmark(); unlisten(); } };
}
