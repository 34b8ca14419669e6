// Indices and powers in plain text: h_t, h_{t−1}, ρ^k as the lectures set them.
import { h } from "../dom.js";

// One letter or a number, then _ or ^ with one sign or braces; words_with_underscores stay as they are.
const SCRIPT = /(?<![\p{L}\p{N}_])(\p{L}\p{M}*|\p{N}+)([_^])(?:\{([^}]*)\}|([\p{L}\p{N}])(?![\p{L}\p{N}_]))/gu;

/**
 * @param {string} text
 * @returns {(string | Node)[]}
 */
export function formula(text) {
  const parts = [];
  let from = 0;
  for (const found of text.matchAll(SCRIPT)) {
    const [whole, letter, sign, braced, single] = found;
    parts.push(text.slice(from, found.index), letter,
      h(sign === "_" ? "sub" : "sup", {}, braced ?? single));
    from = found.index + whole.length;
  }
  return [...parts, text.slice(from)];
}
