// The server's clock, which decides every deadline; the phone's own may be wrong by hours.

/**
 * Follows the server's clock by what the server says of it. Between two answers it goes on by the
 * machine's monotonic clock, which cannot be set.
 */
export class ServerClock {
  #ahead = -Infinity;
  #steady;

  /** @param {() => number} steady milliseconds that only ever grow */
  constructor(steady = () => performance.now()) {
    this.#steady = steady;
  }

  /**
   * Takes note of a `server_time`. Every answer is late by its way here, so the one that puts the
   * clock furthest ahead came the fastest and is the closest.
   * @param {string} serverTime RFC 3339
   */
  observe(serverTime) {
    const said = Date.parse(serverTime);
    if (!Number.isNaN(said)) this.#ahead = Math.max(this.#ahead, said - this.#steady());
  }

  /** Milliseconds since 1970; the machine's own guess until the server has said anything. */
  now() {
    return this.#ahead === -Infinity ? Date.now() : this.#ahead + this.#steady();
  }

  /**
   * Milliseconds left until an instant, 0 when it has passed.
   * @param {string} instant RFC 3339
   */
  until(instant) {
    return Math.max(0, Date.parse(instant) - this.now());
  }
}
