// Elements made without HTML: text from a gallery stays text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "color") element.style.setProperty("--color", value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null && child !== ""));
  return element;
}

/** An HTML element with attributes, `onEVENT` listeners, a `color`, and children that are elements or text. */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** A number of things: "1 match", "2 matches". */
export const plural = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** A label as people read it: "whole" names a photo without a detected garment. */
export const shownLabel = (label) => (label === "whole" ? "photo" : label);
