// A button for what cannot be undone.
import { h } from "../dom.js";

/**
 * A button that asks once more before it acts; it forgets the first click when it loses focus.
 * @param {string} label
 * @param {string} question its label after the first click
 * @param {() => void} action what the second click does
 */
export function confirmButton(label, question, action) {
  let asked = false;
  const button = h("button", { onclick: () => {
    if (asked) return action();
    asked = true;
    button.textContent = question;
    button.classList.add("sure");
  }, onblur: () => {
    asked = false;
    button.textContent = label;
    button.classList.remove("sure");
  } }, label);
  return button;
}
