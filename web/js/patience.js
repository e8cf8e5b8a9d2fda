// Waiting before another try.

/** The longest pause between two tries, in milliseconds. */
const LONGEST = 20_000;

/**
 * How long to wait before try number `attempt` (from 1): doubled every time, and anywhere in the
 * upper half of that, so that many who lost the same server do not come back at once.
 */
export function backoff(attempt, random = Math.random) {
  const most = Math.min(LONGEST, 500 * 2 ** Math.min(attempt - 1, 10));
  return most / 2 + (most / 2) * random();
}

/**
 * Waits `milliseconds`; less where the network or the reader comes back, but at least `least`.
 * Throws what `signal` was aborted with.
 */
export function pause(milliseconds, signal, least = 0) {
  const began = performance.now();
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.("online", wake);
      globalThis.document?.removeEventListener("visibilitychange", look);
      signal?.removeEventListener("abort", stop);
    };
    const finish = () => {
      end();
      resolve();
    };
    const stop = () => {
      end();
      reject(signal.reason);
    };
    const wake = () => performance.now() - began >= least && finish();
    const look = () => document.visibilityState === "visible" && wake();
    const timer = setTimeout(finish, milliseconds);
    globalThis.addEventListener?.("online", wake);
    globalThis.document?.addEventListener("visibilitychange", look);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop);
  });
}
