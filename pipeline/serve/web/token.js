/** Asks for the write token. */

import { at } from "./dom.js";

/**
 * Return the token that the user gives, null where none is given.
 *
 * @param {boolean} wrong - whether the last one wasn't taken.
 */
export function askForToken(wrong) {
  const dialog = at("token");
  const input = at("token-input");
  input.value = "";
  input.setAttribute("aria-invalid", String(wrong));
  at("token-wrong").hidden = !wrong;
  const { promise, resolve } = Promise.withResolvers();
  const given = (event) => {
    event.preventDefault();
    if (!input.value.trim()) return input.focus();
    dialog.close(input.value.trim());
  };
  at("token-form").addEventListener("submit", given);
  at("token-cancel").onclick = () => dialog.close("");
  dialog.addEventListener("close", function closed() {
    at("token-form").removeEventListener("submit", given);
    dialog.removeEventListener("close", closed);
    input.value = "";
    resolve(dialog.returnValue || null);
  });
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  return promise;
}
