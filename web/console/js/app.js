// What every page uses: the API with the present token, and who is signed in.

import { Api } from "./api.js";
import { Session } from "./session.js";

export const session = new Session();

/** Called when a call was refused for its token; the shell sets it. */
export const onSignedOut = { call: () => {} };

export const api = new Api(
  () => session.token,
  () => onSignedOut.call(),
);

/** Whether the present token allows this; see {@link Session#may}. */
export const may = (scope) => session.may(scope);

/**
 * Does something now and again every `milliseconds`, until the signal; not while the window is out of
 * sight. A failure is the caller's to show.
 */
export async function every(milliseconds, signal, something) {
  while (!signal.aborted) {
    if (!document.hidden) await something();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}
