// Answers come in any order: what is shown is the answer to the newest request.

/**
 * Requests for one place of a page. Each call begins a request and gives its test: whether
 * no other has begun since.
 * @returns {() => () => boolean}
 */
export function newest() {
  let begun = 0;
  return () => {
    const mine = ++begun;
    return () => mine === begun;
  };
}
