// Pictures that open large: plots, and the figures that show a good sketch.
import { h } from "../dom.js";

/**
 * A picture on a button; a click shows it over the whole page, another closes it.
 * @param {string} src
 * @param {string} alt what it shows
 */
export function zoomable(src, alt) {
  const open = () => {
    const close = () => dialog.close();
    const dialog = h("dialog", { class: "large", "aria-label": alt, onclose: () => dialog.remove() },
      h("button", { class: "close", onclick: close }, "Close"),
      h("img", { src, alt, onclick: close }));
    document.body.append(dialog);
    dialog.showModal();
  };
  return h("button", { class: "zoomable", type: "button", title: "Open it large", onclick: open }, h("img", { src, alt }));
}

/**
 * The figure of a question, and what a useful sketch shows.
 * @param {import("./session.js").Question} question
 * @param {(string | Node)[]} sketch
 */
export function figureOf(question, sketch) {
  if (!question.figure && !question.sketch) return null;
  return h("figure", {},
    h("figcaption", {}, h("strong", {}, "A useful sketch"), question.sketch ? [": ", ...sketch] : []),
    question.figure && zoomable(`/api/figure/${encodeURIComponent(question.id)}`, `A sketch: ${question.sketch || question.figure}`));
}
