// Making elements. Texts go in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * `h("p", {class: "note"}, "text", element)`. An attribute of `null`, `undefined` or `false` is
 * left out, `true` is there without a value, a function (`onclick`) is listened with.
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets a text only where it is another: a reader is not told the same again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
