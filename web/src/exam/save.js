// Saves a value on the server after every change: one request at a time, the newest value last.
import { put } from "../api.js";

/**
 * @param {string} path
 * @param {(error: Error | null) => void} done called with what went wrong, or null when all is saved
 * @returns {(value: any) => void}
 */
export function saver(path, done) {
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
    done(problem);
  };
  return (value) => {
    next = { value };
    if (!sending) send();
  };
}
