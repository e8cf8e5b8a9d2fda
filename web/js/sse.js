// Server-Sent Events read from a `fetch`: EventSource cannot send a token, and a token in an
// address would end up in logs.

/** The most characters of one event that are kept; a participation has about a thousand. */
const LARGEST_EVENT = 256 * 1024;

/** Parses bytes into events; the bytes may come in any pieces. */
export class SseParser {
  #decoder = new TextDecoder();
  #line = "";
  #afterReturn = false;
  #name = "";
  #data = [];
  #size = 0;
  #id = "";

  /**
   * @param {Uint8Array} bytes
   * @returns {{event: string, id: string, data: string}[]} the events these bytes complete;
   *   comments make none
   */
  push(bytes) {
    const events = [];
    for (const char of this.#decoder.decode(bytes, { stream: true })) {
      // A line ends with LF, CR, or both in this order.
      if (char === "\n" && this.#afterReturn) {
        this.#afterReturn = false;
        continue;
      }
      this.#afterReturn = char === "\r";
      if (char === "\n" || char === "\r") {
        this.#end(this.#line, events);
        this.#line = "";
      } else {
        this.#line += char;
        if (++this.#size > LARGEST_EVENT) throw new RangeError("an event is too large");
      }
    }
    return events;
  }

  #end(line, events) {
    if (line === "") {
      if (this.#data.length > 0) {
        events.push({ event: this.#name || "message", id: this.#id, data: this.#data.join("\n") });
      }
      this.#name = "";
      this.#data = [];
      this.#size = 0;
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id") this.#id = value;
  }
}
