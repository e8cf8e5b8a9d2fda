// Following a participation: by its stream, and by long polls where streams do not come through.

import { Problem } from "./api.js";
import { backoff, pause } from "./patience.js";
import { SseParser } from "./sse.js";

/** The service says something at least every 15 s; a stream silent for longer is dead. */
const SILENCE = 25_000;

/** A stream that has not brought its first event by then is being held back by something. */
const FIRST_EVENT = 8_000;

/** A stream that has brought something and lasted so long, in milliseconds, was a good one. */
const GOOD_STREAM = 10_000;

/** After this many failed streams in a row, it changes to long polls… */
const BAD_STREAMS = 2;

/** …for so long, in milliseconds; then a stream is tried again. At once where polls fail too. */
const POLL_FOR = 5 * 60_000;

/** A poll without news that came back sooner, in milliseconds, was not held; the next one waits so long. */
const POLL_AT_LEAST = 1_000;

const FINAL = ["REWARDED", "EXPIRED"];

/**
 * Tells of every new state of a participation until a final one or until `signal` aborts. Goes on
 * through lost networks and restarts of the service for as long as it takes.
 *
 * @param {object} options
 * @param {import("./api.js").RidePromo} options.api
 * @param {number} options.promotionId
 * @param {import("./clock.js").ServerClock} options.clock
 * @param {object} [options.known] the participation as it is known already
 * @param {(participation: object) => void} options.onState never goes back in version
 * @param {(live: boolean) => void} [options.onLink] whether news would arrive at the moment
 * @param {AbortSignal} options.signal
 * @returns {Promise<void>} rejects with the {@link Problem} that no patience helps against
 */
export async function follow({ api, promotionId, clock, known = null, onState, onLink = () => {}, signal }) {
  let seen = known;
  let etag = null;
  let failures = 0;
  let badStreams = 0;
  let pollUntil = 0;

  /** Hands on what is newer; answers whether there will be more. */
  const take = (participation) => {
    clock.observe(participation.server_time);
    onLink(true);
    if (isNewer(participation, seen)) {
      seen = participation;
      onState(participation);
    }
    return !FINAL.includes(seen.status);
  };
  const poll = async () => {
    const began = performance.now();
    const answer = await api.poll(promotionId, { etag, signal });
    etag = answer.etag;
    failures = 0;
    onLink(true);
    if (answer.participation) take(answer.participation);
    // Something on the way that does not wait must not be asked all the time.
    else if (performance.now() - began < POLL_AT_LEAST) await pause(POLL_AT_LEAST, signal);
  };
  const stream = async () => {
    const course = { brought: false };
    const began = performance.now();
    try {
      await readStream({ api, promotionId, signal, course }, take);
    } finally {
      const good = course.brought && performance.now() - began >= GOOD_STREAM;
      failures = good ? 0 : failures + 1;
      badStreams = good ? 0 : badStreams + 1;
    }
  };

  while (!signal.aborted && !FINAL.includes(seen?.status)) {
    const polls = performance.now() < pollUntil;
    let ordered = 0;
    try {
      if (polls) {
        await poll();
        continue;
      }
      await stream();
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && !error.passes) throw error;
      if (polls) {
        // Then it was not the streams' fault.
        failures++;
        pollUntil = 0;
        badStreams = 0;
      }
      ordered = error.retryAfter ?? 0;
      onLink(false);
    }
    if (FINAL.includes(seen?.status)) return;
    if (badStreams >= BAD_STREAMS && globalThis.navigator?.onLine !== false) {
      badStreams = 0;
      pollUntil = performance.now() + POLL_FOR;
    }
    await pause(ordered + backoff(Math.max(1, failures)), signal, ordered).catch(() => {});
  }
}

/** Whether `next` is to be shown over `seen`. Settling begins and ends within one version. */
export function isNewer(next, seen) {
  if (!seen || next.version > seen.version) return true;
  return next.version === seen.version && next.settling && !seen.settling;
}

/** One stream, to its end; writes into `course` what it was like. */
async function readStream({ api, promotionId, signal, course }, take) {
  const cut = new AbortController();
  const abort = () => cut.abort(signal.reason);
  signal.addEventListener("abort", abort);
  let timer;
  const expect = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(() => cut.abort(), milliseconds);
  };
  // Timers sleep while a phone does: who comes back looks whether the stream is still alive.
  let heard = performance.now();
  const look = () => {
    if (document.visibilityState === "visible" && performance.now() - heard > SILENCE) cut.abort();
  };
  globalThis.document?.addEventListener("visibilitychange", look);
  try {
    expect(FIRST_EVENT);
    const reader = (await api.stream(promotionId, cut.signal)).getReader();
    const parser = new SseParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard = performance.now();
      if (course.brought) expect(SILENCE);
      for (const { event, data } of parser.push(value)) {
        if (event !== "participation") continue;
        course.brought = true;
        expect(SILENCE);
        if (!take(JSON.parse(data))) return;
      }
    }
  } finally {
    clearTimeout(timer);
    cut.abort();
    signal.removeEventListener("abort", abort);
    globalThis.document?.removeEventListener("visibilitychange", look);
  }
}
