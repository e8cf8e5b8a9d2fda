// The client's token, handed over by the app that opens the page: in the fragment of its address
// (/app#token=…), which no server ever sees and no log ever holds.

const KEY = "ride-promo.token";

/**
 * When a token expires, in milliseconds since 1970; `null` where it cannot be read: it is not a JWT, or
 * its `exp` is missing. Only for telling the client what is wrong; the service decides.
 * @param {string|null} token
 */
export function tokenExpiry(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload));
    return Number.isFinite(exp) ? exp * 1000 : null;
  } catch {
    return null;
  }
}

/** Keeps the token for this tab, in `sessionStorage` where it may be used. */
export class TokenKeeper {
  #token = null;

  constructor() {
    try {
      this.#token = sessionStorage.getItem(KEY);
    } catch {
      // Storage is forbidden: it lasts until the page is left.
    }
  }

  get() {
    return this.#token;
  }

  /**
   * Takes a token out of the address, and the address is clean again. Returns whether there was
   * one. An app hands over a new one by going to `/app#token=…` again; the page stays.
   */
  takeFromAddress() {
    const fragment = new URLSearchParams(location.hash.slice(1));
    const token = fragment.get("token");
    if (token === null) return false;
    history.replaceState(history.state, "", location.pathname + location.search);
    this.#token = token;
    try {
      sessionStorage.setItem(KEY, token);
    } catch {
      // as above
    }
    return true;
  }

  /** The service does not take it any more. */
  forget() {
    this.#token = null;
    try {
      sessionStorage.removeItem(KEY);
    } catch {
      // as above
    }
  }
}
