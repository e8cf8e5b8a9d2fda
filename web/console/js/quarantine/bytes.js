// A record's bytes, made readable, with what is wrong in them marked.

import { h } from "../dom.js";

/** `{bytes, text, json}`; `text` is `null` where it is not UTF-8, `json` is `undefined` where it is none. */
export function bytesOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  let text = null;
  let json;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    json = JSON.parse(text);
  } catch {
    // the bytes are shown as they are
  }
  return { bytes, text, json };
}

/** The fields of a ride; what the service says of a record names them. */
const FIELDS = ["ride_id", "reversed_ride_id", "user_id", "completed_at", "amount_cents", "currency_code", "country_code", "city_id", "service_type", "distance_m"];

/** The fields that a record's `detail` names. */
export const faultyFields = (detail) => FIELDS.filter((name) => new RegExp(`\\b${name}\\b`).test(detail));

/** The bytes as a block of text. */
export function readable({ value_base64, detail }) {
  const { bytes, text, json } = bytesOf(value_base64);
  if (text === null) return h("pre", { class: "bytes", tabindex: 0 }, hex(bytes));
  if (json === undefined || json === null || typeof json !== "object") return h("pre", { class: "bytes", tabindex: 0 }, text);
  const faulty = faultyFields(detail);
  // A field that is there twice would be shown once: then the text is shown as it came.
  const lines = JSON.stringify(json).length < text.replaceAll(/\s/g, "").length - 2 ? text.split("\n") : JSON.stringify(json, null, 2).split("\n");
  const marked = lines.flatMap((line, at) => {
    const isFaulty = faulty.some((name) => line.includes(`"${name}"`));
    return [isFaulty ? h("mark", {}, line) : line, at < lines.length - 1 ? "\n" : ""];
  });
  return h("pre", { class: "bytes", tabindex: 0 }, marked);
}

/** Sixteen bytes a line, with their letters. */
function hex(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, 4_096); at += 16) {
    const part = [...bytes.slice(at, at + 16)];
    const digits = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const letters = part.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${digits.padEnd(47)}  ${letters}`);
  }
  return lines.join("\n");
}
