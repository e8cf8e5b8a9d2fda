// The client API (/v1), one method per call.

import { backoff, pause } from "./patience.js";

/** How long an answer may take, in milliseconds, beyond what it was asked to wait. */
const TIMEOUT = 15_000;

/**
 * How often a call is tried before the client is asked whether to try again: some seconds; some
 * minutes where the phone says itself that it has no network.
 */
const TRIES = { online: 4, offline: 16 };

/** The longest `Retry-After` that is waited for without asking anybody, in milliseconds. */
const MAX_RETRY_AFTER = 30_000;

/** The service refused: an RFC 9457 problem. */
export class Problem extends Error {
  /** @param {Response} response @param {object} body its JSON, as far as there was any */
  constructor(response, body) {
    super(body.detail ?? body.title ?? `answered ${response.status}`);
    this.name = "Problem";
    this.status = response.status;
    /** `not-eligible`, `reward-expired`, …; empty where something else than the service answered. */
    this.slug = String(body.type ?? "").replace(/^\/problems\//, "");
    this.body = body;
    const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
    /** Milliseconds that the service asks to wait, or null. */
    this.retryAfter = Number.isNaN(seconds) ? null : seconds * 1000;
    /** What names this answer in the service's log, or null. */
    this.requestId = response.headers.get("x-request-id");
    const date = Date.parse(response.headers.get("date") ?? "");
    /** The server's clock at this answer, in milliseconds since 1970, or null. */
    this.serverTime = Number.isNaN(date) ? null : date;
  }

  /** Whether the same call may be answered later. */
  get passes() {
    return this.status === 429 || this.status >= 500;
  }
}

/** There was no answer, or not a whole one: what became of the call is unknown. */
export class Unreachable extends Error {
  constructor(cause) {
    super("the service could not be reached", { cause });
    this.name = "Unreachable";
  }
}

/** The calls of one client. Each of them may safely be repeated; that is the service's promise. */
export class RidePromo {
  #base;
  #token;
  #clock;
  #fetch;

  /**
   * @param {object} options
   * @param {string} [options.base] where the API is; this page's own host where not given
   * @param {() => string|null} options.token the client's token as it is now
   * @param {import("./clock.js").ServerClock} options.clock is told what time the server has
   * @param {typeof fetch} [options.fetch]
   */
  constructor({ base = "", token, clock, fetch = globalThis.fetch.bind(globalThis) }) {
    this.#base = base;
    this.#token = token;
    this.#clock = clock;
    this.#fetch = fetch;
  }

  /** Decides the screen. */
  landing(signal) {
    return this.#json("POST", "/v1/landing", { signal });
  }

  /** Get started; the participation, new or already there. */
  start(promotionId, signal) {
    return this.#json("POST", path(promotionId, "start"), { signal });
  }

  /** `{items, next_cursor}`: the rides that were judged, the newest first. */
  rides(promotionId, { limit = 50, cursor = null, signal } = {}) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (cursor) query.set("cursor", cursor);
    return this.#json("GET", `${path(promotionId, "rides")}?${query}`, { signal });
  }

  /** The terms of the loan that can be accepted now. */
  getReward(promotionId, signal) {
    return this.#json("GET", path(promotionId, "get_reward"), { signal });
  }

  /** Accepts it; every repeat returns the same. */
  acceptReward(promotionId, idempotencyKey, signal) {
    const headers = { "idempotency-key": idempotencyKey };
    return this.#json("POST", path(promotionId, "accept_reward"), { headers, signal });
  }

  /** Gives the challenge up, for good. */
  quit(promotionId, signal) {
    return this.#json("POST", path(promotionId, "quit"), { signal });
  }

  /** The client has seen that it is over. */
  acknowledge(promotionId, signal) {
    return this.#json("POST", path(promotionId, "acknowledge"), { signal });
  }

  /**
   * One long poll, not repeated. Answers `{participation, etag}`, with `null` for a participation
   * that is still the one of `etag`.
   */
  poll(promotionId, { etag = null, wait = 25, signal } = {}) {
    const waits = etag !== null;
    const options = {
      headers: waits ? { "if-none-match": etag } : {},
      timeout: TIMEOUT + (waits ? wait * 1000 : 0),
      signal,
    };
    const query = waits ? `?wait=${wait}` : "";
    return this.#exchange("GET", path(promotionId, "progress") + query, options, async (response) => ({
      participation: response.status === 304 ? null : await this.#body(response),
      etag: response.headers.get("etag") ?? etag,
    }));
  }

  /**
   * Opens the stream, once; its body is for an {@link import("./sse.js").SseParser}. There is no
   * limit on its time but `signal`.
   */
  async stream(promotionId, signal) {
    const response = await this.#send("GET", path(promotionId, "progress/stream"), {
      headers: { accept: "text/event-stream" },
      signal,
    });
    const type = response.headers.get("content-type") ?? "";
    if (!response.body || !type.startsWith("text/event-stream")) {
      throw new Unreachable(new TypeError(`not a stream but ${type}`));
    }
    return response.body;
  }

  /** A call until it is answered: what passes is tried again, a few times. */
  async #json(method, path, options) {
    // One call belongs to one client, also when it is repeated and another client signs in meanwhile.
    const token = this.#token();
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#exchange(method, path, { ...options, token }, (response) => this.#body(response));
      } catch (error) {
        const passes = error instanceof Unreachable || (error instanceof Problem && error.passes);
        const tries = globalThis.navigator?.onLine === false ? TRIES.offline : TRIES.online;
        const ordered = error.retryAfter ?? 0;
        if (!passes || attempt >= tries || ordered > MAX_RETRY_AFTER) throw error;
        // Not before the service wants it, and not all at the same moment.
        await pause(ordered + backoff(attempt), options.signal, ordered);
      }
    }
  }

  /**
   * Sends, and reads the answer to its end, both within `timeout`. An answer to a token that is not
   * the present one any more is nobody's: it never comes.
   */
  async #exchange(method, path, { headers, signal, token = this.#token(), timeout = TIMEOUT }, read) {
    const limit = new AbortController();
    const abort = () => limit.abort(signal.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    const late = () => limit.abort(new DOMException("no answer in time", "TimeoutError"));
    const timer = setTimeout(late, timeout);
    try {
      return await read(await this.#send(method, path, { headers, token, signal: limit.signal }));
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      if (token !== this.#token()) await new Promise(() => {});
    }
  }

  /** Sends; answers what succeeded (or has not changed), throws the problem of what did not. */
  async #send(method, path, { headers = {}, signal, token = this.#token() }) {
    let response;
    try {
      response = await this.#fetch(this.#base + path, {
        method,
        headers: token ? { ...headers, authorization: `Bearer ${token}` } : headers,
        signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
    } catch (error) {
      throw new Unreachable(error);
    }
    if (response.ok || response.status === 304) return response;
    throw new Problem(response, await response.json().catch(() => ({})));
  }

  async #body(response) {
    if (response.status === 204) return null;
    let body;
    try {
      body = await response.json();
    } catch (error) {
      throw new Unreachable(error);
    }
    const serverTime = body.server_time ?? body.participation?.server_time;
    if (serverTime) this.#clock.observe(serverTime);
    return body;
  }
}

/** A key for {@link RidePromo#acceptReward}; `randomUUID` is only there in secure contexts. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function path(promotionId, call) {
  return `/v1/promotions/${encodeURIComponent(promotionId)}/${call}`;
}
