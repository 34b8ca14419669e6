// Keys of one letter or digit, which a switch turns off: some people's input comes by accident.
import { h } from "../dom.js";

const KEPT = "cellwright-exam-keys"; // in the browser: "off", or nothing

/**
 * Listen to keys until the element leaves the page.
 * @param {string} help what the keys do
 * @param {(key: string) => (() => void) | undefined} actionOf what a key does now
 * @returns {HTMLElement} the switch, with the help
 */
export function shortcuts(help, actionOf) {
  const box = h("input", { type: "checkbox", checked: localStorage.getItem(KEPT) !== "off",
    onchange: () => (box.checked ? localStorage.removeItem(KEPT) : localStorage.setItem(KEPT, "off")) });
  const view = h("label", { class: "keys" }, box, h("span", {}, h("strong", {}, "Keys "), help));
  /** @param {KeyboardEvent} event */
  const typed = (event) => {
    if (!view.isConnected) return document.removeEventListener("keydown", typed);
    if (!box.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const action = actionOf(event.key.toLowerCase());
    if (!action) return;
    event.preventDefault();
    action();
  };
  document.addEventListener("keydown", typed);
  return view;
}

/** @param {EventTarget | null} target */
const isTyping = (target) =>
  target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement ||
  (target instanceof HTMLInputElement && !["radio", "checkbox"].includes(target.type));
