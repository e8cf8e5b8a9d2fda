// Who is signed in. The token is in memory only: a reload asks for it again.

const SCOPE = "ride-promo";

export class Session {
  #token = null;
  #scopes = new Set();
  /** The token's `sub`, as the audit records it. */
  actor = null;
  /** When the token ends, in milliseconds since 1970; `null` where it does not say. */
  expiresAt = null;

  get token() {
    return this.#token;
  }

  get isSignedIn() {
    return this.#token !== null;
  }

  /** Takes a token; throws a `RangeError` for what is not one. What it allows is the service's to say. */
  signIn(token) {
    const claims = claimsOf(token);
    this.#token = token;
    this.actor = typeof claims.sub === "string" ? claims.sub : null;
    this.expiresAt = Number.isFinite(claims.exp) ? claims.exp * 1000 : null;
    const scope = claims.scope ?? claims.scp ?? "";
    this.#scopes = new Set(Array.isArray(scope) ? scope : String(scope).split(" "));
  }

  signOut() {
    this.#token = null;
    this.#scopes = new Set();
    this.actor = null;
  }

  /** The scopes of this service that the token has, without their common beginning. */
  get scopes() {
    const own = [...this.#scopes].filter((scope) => scope.startsWith(`${SCOPE}:`));
    return own.map((scope) => scope.slice(SCOPE.length + 1)).sort();
  }

  /** Whether the token may do what takes this scope: `view`, `edit`, `import`, `support`, `audit`. */
  may(scope) {
    return this.#scopes.has(`${SCOPE}:admin`) || this.#scopes.has(`${SCOPE}:${scope}`);
  }
}

function claimsOf(token) {
  const parts = token.split(".");
  if (parts.length !== 3) throw new RangeError("not a JWT");
  try {
    const bytes = Uint8Array.from(atob(parts[1].replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    if (claims === null || typeof claims !== "object") throw new RangeError("not a JWT");
    return claims;
  } catch {
    throw new RangeError("not a JWT");
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
