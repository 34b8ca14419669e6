// What the pages ask of the server. Every address is our own.

/** @param {Response} response */
async function checked(response) {
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch {
    // no JSON: the text is the message
  }
  throw new Error(message || `the server answered ${response.status}`);
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function get(path) {
  return (await checked(await fetch(path))).json();
}

/**
 * @param {string} path
 * @returns {Promise<Response>}
 */
export async function getResponse(path) {
  return checked(await fetch(path));
}

/**
 * @param {string} path
 * @param {any} body
 * @returns {Promise<any>}
 */
export async function post(path, body) {
  return (await send("POST", path, body)).json();
}

/**
 * @param {string} path
 * @param {any} body
 */
export async function put(path, body) {
  await send("PUT", path, body);
}

/**
 * Take what the server keeps for this page; it keeps it no longer.
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function take(path) {
  return (await checked(await fetch(path, { method: "DELETE" }))).json();
}

/**
 * @param {string} method
 * @param {string} path
 * @param {any} body
 */
async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  return checked(await fetch(path, { method, headers, body: JSON.stringify(body) }));
}
