// The photo with its garments: outlines to point at, and a button for each to reach by keyboard.

import { byId, el, svg } from "./dom.js";

const GAP_PX = 2;

/** A garment's outlines, holes too, as a path; "" without a mask. */
export const pathOf = (outline) => outline.map((ring) => `M${ring.map(([x, y]) => `${x} ${y}`).join("L")}Z`).join("");

const rect = ([x1, y1, x2, y2], kind) =>
  svg("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1 });

/** The photo in the page. */
export class Scene {
  constructor(choose) {
    this.choose = choose;
    this.tags = [];
    this.shapes = [];
    new ResizeObserver(() => this.place()).observe(byId("scene"));
  }

  /** Show a photo, whose size is known later. */
  show(url, name) {
    const photo = byId("photo");
    photo.removeAttribute("width");
    photo.removeAttribute("height");
    photo.src = url;
    photo.alt = `The photo to search from: ${name}`;
    byId("shapes").replaceChildren();
    byId("tags").replaceChildren();
    this.tags = [];
    this.shapes = [];
  }

  /** Outline the garments of the photo. */
  draw(found, colorOf) {
    const { width, height, garments } = found;
    this.size = { width, height };
    const photo = byId("photo");
    photo.width = width;
    photo.height = height;
    photo.style.height = "auto";
    byId("shapes").setAttribute("viewBox", `0 0 ${width} ${height}`);
    const inFront = garments.map((_, number) => number).sort((a, b) => area(garments[b]) - area(garments[a]));
    this.shapes = garments.map((garment, number) => this.shape(garment, number, colorOf(garment.label)));
    byId("shapes").replaceChildren(...inFront.map((number) => this.shapes[number]));
    this.tags = garments.map((garment, number) =>
      el("button", {
        type: "button", class: "tag", color: colorOf(garment.label), "aria-pressed": "false",
        "aria-label": `${garment.label}, garment ${number + 1} of ${garments.length}, ${Math.round(100 * garment.score)} % sure`,
        onclick: () => this.choose(number),
      }, garment.label));
    byId("tags").replaceChildren(...this.tags);
    this.garments = garments;
    this.place();
  }

  shape(garment, number, color) {
    const path = pathOf(garment.outline);
    return svg("g", { color, onclick: () => this.choose(number) },
      path ? svg("path", { d: path }) : rect(garment.box, "hit"), rect(garment.box, "halo"), rect(garment.box, "edge"));
  }

  /** Show which garment is chosen; null for none. */
  mark(chosen) {
    this.tags.forEach((tag, number) => tag.setAttribute("aria-pressed", String(number === chosen)));
    this.shapes.forEach((shape, number) => shape.classList.toggle("chosen", number === chosen));
  }

  /** Put each button at its garment's upper left corner, moved down where it would hide another. */
  place() {
    if (!this.tags.length || !this.size) return;
    const { clientWidth: wide, clientHeight: high } = byId("shapes").parentElement;
    const placed = [];
    this.tags.forEach((tag, number) => {
      const [x1, y1] = this.garments[number].box;
      const [w, h] = [tag.offsetWidth, tag.offsetHeight];
      const left = Math.max(0, Math.min((x1 * wide) / this.size.width, wide - w));
      let top = Math.max(0, Math.min((y1 * high) / this.size.height, high - h));
      const hides = (other) => left < other.right && other.left < left + w && top < other.bottom && other.top < top + h;
      for (let other; (other = placed.find(hides)) && top + h < high; ) top = other.bottom + GAP_PX;
      placed.push({ left, top, right: left + w, bottom: top + h });
      tag.style.left = `${left}px`;
      tag.style.top = `${top}px`;
    });
  }
}

const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);

/** What was cut out of the photo of a size, drawn small: the box, or the garment alone on white. */
export function cutPicture(garment, size, masked) {
  const [x1, y1, x2, y2] = garment.box;
  const scale = Math.min(144 / (x2 - x1), 180 / (y2 - y1), 1);
  const canvas = el("canvas", { "aria-hidden": "true" });
  canvas.width = Math.max(1, Math.round((x2 - x1) * scale));
  canvas.height = Math.max(1, Math.round((y2 - y1) * scale));
  const context = canvas.getContext("2d");
  const photo = byId("photo");
  if (!photo.complete || !photo.naturalWidth) return canvas;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, -x1 * scale, -y1 * scale);
  if (masked && garment.outline.length) context.clip(new Path2D(pathOf(garment.outline)), "evenodd");
  context.drawImage(photo, 0, 0, size.width, size.height);
  return canvas;
}
