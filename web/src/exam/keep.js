// Keeps the session on the server: one request at a time, so that the last one wins.
import { put } from "../api.js";

/**
 * @param {string} path
 * @param {(error: Error | null) => void} told what went wrong, or null when all is kept
 * @returns {(value: any) => void}
 */
export function keeper(path, told) {
  let sending = false;
  /** @type {{value: any} | null} */
  let next = null;
  const send = async () => {
    sending = true;
    /** @type {Error | null} */
    let problem = null;
    while (next) {
      const { value } = next;
      next = null;
      problem = await put(path, value).then(() => null, (error) => error);
    }
    sending = false;
    told(problem);
  };
  return (value) => {
    next = { value };
    if (!sending) send();
  };
}
