// Who is signed in. The token is in memory only: a reload asks for it again.

const SCOPE = "ride-promo";

export class Session {
  #token = null;
  #scopes = new Set();
  /** The token's `sub`, as the audit records it. */
  actor = null;
  /** When the token ends, in milliseconds since 1970. */
  expiresAt = null;

  get token() {
    return this.#token;
  }

  get isSignedIn() {
    return this.#token !== null;
  }

  /** Takes a token; throws a `RangeError` for what cannot be one. */
  signIn(token) {
    if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) throw new RangeError("not a JWT");
    this.signOut();
    this.#token = token;
  }

  /** Takes what the service says of the token, `GET /me`. */
  learn({ subject, scopes, expires_at }) {
    this.actor = subject;
    this.expiresAt = new Date(expires_at).getTime();
    this.#scopes = new Set(scopes);
  }

  signOut() {
    this.#token = null;
    this.#scopes = new Set();
    this.actor = null;
    this.expiresAt = null;
  }

  /** The scopes of this service that the token has, without their common beginning. */
  get scopes() {
    return [...this.#scopes].map((scope) => scope.slice(SCOPE.length + 1)).sort();
  }

  /** Whether the token may do what takes this scope: `view`, `edit`, `import`, `support`, `audit`. */
  may(scope) {
    return this.#scopes.has(`${SCOPE}:${scope}`);
  }
}

/**
 * Takes a token out of the page's address (`/console#token=…`, which is never sent), and the address is
 * clean again.
 */
export function tokenFromAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return token.trim();
}
