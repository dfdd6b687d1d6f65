// Elements without HTML: whatever comes from a gallery is text, and stays text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "color") element.style.setProperty("--color", value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null && child !== ""));
  return element;
}

/** An HTML element with attributes, `onEVENT` listeners, a `color`, and children that are elements or text. */
export const el = (tag, properties = {}, ...children) =>
  filled(document.createElement(tag), properties, children);

/** The same for SVG. */
export const svg = (tag, properties = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), properties, children);

/** A count of things: "1 match", "2 matches". */
export const plural = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
