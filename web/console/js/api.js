// The admin API: one method per kind of call, errors as what the service says of them.

const BASE = "/admin/v1";

/** An error response (RFC 9457), or no response at all (`status` 0). */
export class Problem extends Error {
  constructor(status, body, requestId) {
    super(body?.detail ?? body?.title ?? `HTTP ${status}`);
    this.name = "Problem";
    this.status = status;
    /** `invalid-request`, `precondition-failed`; `null` without a response. */
    this.slug = body?.type?.split("/").at(-1) ?? null;
    this.title = body?.title ?? null;
    this.detail = body?.detail ?? null;
    /** `[{field, reason}]` */
    this.errors = body?.errors ?? [];
    this.body = body;
    this.requestId = requestId;
  }
}

export class Api {
  #token;
  #unauthorized;

  /**
   * @param {() => string|null} token
   * @param {() => void} unauthorized called when the token was refused with `401`
   */
  constructor(token, unauthorized) {
    this.#token = token;
    this.#unauthorized = unauthorized;
  }

  /** Returns the JSON of the response. */
  async get(path, query, signal) {
    return (await this.send("GET", path, { query, signal })).body;
  }

  /** Returns `{body, etag}`: `etag` is the revision for `If-Match`, `null` where there is none. */
  read(path, signal) {
    return this.send("GET", path, { signal });
  }

  /** Sends JSON; `etag` refuses the change where another was made since (`412`). */
  async change(method, path, body, { etag = null, query, idempotencyKey } = {}) {
    const headers = {
      ...(body !== undefined && { "content-type": "application/json" }),
      ...(etag && { "if-match": etag }),
      ...(idempotencyKey && { "idempotency-key": idempotencyKey }),
    };
    const text = body === undefined ? undefined : JSON.stringify(body);
    return (await this.send(method, path, { headers, body: text, query })).body;
  }

  async send(method, path, { headers = {}, body, query, signal } = {}) {
    const response = await this.#fetch(method, path, { headers, body, query, signal });
    const text = await response.text();
    return { body: text === "" ? null : JSON.parse(text), etag: response.headers.get("etag"), status: response.status };
  }

  /** A response to be read as a file. */
  async download(path, query, accept) {
    const response = await this.#fetch("GET", path, { headers: { accept }, query });
    return response.blob();
  }

  async #fetch(method, path, { headers, body, query, signal }) {
    let response;
    try {
      response = await fetch(address(path, query), {
        method,
        body,
        signal,
        headers: { ...headers, authorization: `Bearer ${this.#token()}` },
        cache: "no-store",
        credentials: "omit",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, null, null);
    }
    if (response.ok) return response;
    const problem = new Problem(response.status, parsed(await response.text()), response.headers.get("x-request-id"));
    if (problem.status === 401) this.#unauthorized();
    throw problem;
  }

  /**
   * Sends a file, which `fetch` could not tell the progress of.
   * @param {(sent: number, total: number) => void} progress in bytes
   */
  upload(path, file, { type, query, progress, signal }) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", address(path, query));
      request.setRequestHeader("authorization", `Bearer ${this.#token()}`);
      if (type) request.setRequestHeader("content-type", type);
      request.upload.addEventListener("progress", ({ loaded, total }) => progress(loaded, total));
      request.addEventListener("load", () => {
        const body = parsed(request.responseText);
        if (request.status >= 200 && request.status < 300) return resolve(body);
        if (request.status === 401) this.#unauthorized();
        reject(new Problem(request.status, body, request.getResponseHeader("x-request-id")));
      });
      request.addEventListener("error", () => reject(new Problem(0, null, null)));
      request.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
      signal?.addEventListener("abort", () => request.abort());
      request.send(file);
    });
  }
}

function address(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(pairs).toString();
  return `${BASE}${path}${text && `?${text}`}`;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, perhaps
  }
}
