// Making elements. Texts go in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * `h("p", {class: "note"}, "text", element)`. An attribute of `null`, `undefined` or `false` is
 * left out, `true` is there without a value, a function (`onclick`) is listened with; `value` is set
 * as a property.
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
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...shown(children));
  // An option can only be chosen once the options are there.
  if (element.tagName === "SELECT" && attributes.value !== undefined) element.value = attributes.value;
  return element;
}

/** Puts these in place of what is in an element. */
export function put(element, ...children) {
  element.replaceChildren(...shown(children));
  return element;
}

const shown = (children) => children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);

let last = 0;

/** An id that no other element has. */
export const newId = (name) => `${name}-${++last}`;
