// The photo with its garments: outlines to point at, and a button for each to reach by keyboard.

import { byId, el, shownLabel, svg } from "./dom.js";

const STEP_PX = 4; // of the search for a free place
const CUT_PX = [144, 180];

/** A garment's outlines, holes too, as a path; "" without a mask. */
export const pathOf = (outline) => outline.map((polygon) => `M${polygon.map(([x, y]) => `${x} ${y}`).join("L")}Z`).join("");

/** Shapes that cover a garment: its outline, or its boxes without a mask; a pair of shoes has two. */
function shapesOf({ outline, boxes }, kind) {
  if (outline.length) return [svg("path", { class: kind, d: pathOf(outline) })];
  return boxes.map(([x1, y1, x2, y2]) => svg("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));
}

const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);

/** The photo in the page; calls `choose(number)` when a garment is clicked. */
export class Scene {
  constructor(choose) {
    this.choose = choose;
    this.garments = [];
    this.tags = [];
    this.groups = [];
    new ResizeObserver(() => this.placeTags()).observe(byId("scene"));
  }

  /** Show a photo whose size is known later. */
  show(url, name) {
    const photo = byId("photo");
    photo.removeAttribute("width");
    photo.removeAttribute("height");
    photo.src = url;
    photo.alt = `The photo to search from: ${name}`;
    byId("shapes").replaceChildren();
    byId("tags").replaceChildren();
    this.garments = this.tags = this.groups = [];
  }

  /** Outline the garments of the photo. */
  draw({ width, height, garments }, colorOf) {
    this.size = { width, height };
    this.garments = garments;
    const photo = byId("photo");
    photo.width = width;
    photo.height = height;
    photo.style.height = "auto";
    byId("shapes").setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.groups = garments.map((garment, number) =>
      svg("g", { class: "garment-shape", color: colorOf(garment.label), onclick: () => this.choose(number) },
        ...shapesOf(garment, "halo"), ...shapesOf(garment, "edge")));
    const inFront = [...this.groups.keys()].sort((a, b) => area(garments[b]) - area(garments[a]));
    this.lit = svg("g", {});
    this.dim = svg("rect", { class: "dim", width, height, mask: "url(#lit)" });
    byId("shapes").replaceChildren(svg("mask", { id: "lit" }, svg("rect", { class: "outside", width, height }), this.lit),
      this.dim, ...inFront.map((number) => this.groups[number]));
    this.tags = garments.map((garment, number) =>
      el("button", {
        type: "button", class: "tag", color: colorOf(garment.label), "aria-pressed": "false",
        "aria-label": `${shownLabel(garment.label)}, garment ${number + 1} of ${garments.length}`, onclick: () => this.choose(number),
      }, shownLabel(garment.label)));
    byId("tags").replaceChildren(...this.tags);
    this.mark(null);
    this.placeTags();
  }

  /** Dim everything but the chosen garment; null for none. */
  mark(chosen) {
    this.tags.forEach((tag, number) => tag.setAttribute("aria-pressed", String(number === chosen)));
    this.groups.forEach((group, number) => group.classList.toggle("chosen", number === chosen));
    this.lit?.replaceChildren(...(chosen === null ? [] : shapesOf(this.garments[chosen], "inside")));
    if (this.dim) this.dim.style.display = chosen === null ? "none" : "";
  }

  /** Put each button above its garment's upper left corner, or at the nearest place where it covers no other. */
  placeTags() {
    if (!this.tags.length || !this.size) return;
    const { clientWidth: width, clientHeight: height } = byId("scene");
    const placed = [];
    this.tags.forEach((tag, number) => {
      const [x1, y1] = this.garments[number].box;
      const size = { width: tag.offsetWidth, height: tag.offsetHeight };
      const corner = { left: (x1 * width) / this.size.width, top: (y1 * height) / this.size.height - size.height };
      const place = nearestFree(corner, size, { width, height }, placed);
      placed.push({ ...place, ...size });
      tag.style.left = `${place.left}px`;
      tag.style.top = `${place.top}px`;
    });
  }
}

const overlap = (a, b) =>
  a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height;

/** The place in a scene nearest to a corner at which a label overlaps no placed one; the corner if there is none. */
function nearestFree(corner, size, scene, placed) {
  const clamped = (left, top) => ({
    left: Math.max(0, Math.min(left, scene.width - size.width)),
    top: Math.max(0, Math.min(top, scene.height - size.height)),
  });
  const isFree = (place) => !placed.some((other) => overlap({ ...place, ...size }, other));
  for (let away = 0; away < scene.width + scene.height; away += STEP_PX) {
    for (let across = 0; across <= away; across += STEP_PX) {
      const down = away - across;
      for (const [x, y] of [[across, down], [-across, down], [across, -down], [-across, -down]]) {
        const place = clamped(corner.left + x, corner.top + y);
        if (isFree(place)) return place;
      }
    }
  }
  return clamped(corner.left, corner.top);
}

/** What was cut out of the photo, drawn small: the box, or the garment alone on white. */
export function cutPicture(garment, size, masked) {
  const [x1, y1, x2, y2] = garment.box;
  const scale = Math.min(CUT_PX[0] / (x2 - x1), CUT_PX[1] / (y2 - y1), 1);
  const canvas = el("canvas", { "aria-hidden": "true" });
  canvas.width = Math.max(1, Math.round((x2 - x1) * scale));
  canvas.height = Math.max(1, Math.round((y2 - y1) * scale));
  const context = canvas.getContext("2d");
  const photo = byId("photo");
  if (!photo.complete || !photo.naturalWidth) return canvas;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, -x1 * scale, -y1 * scale);
  if (masked && garment.outline.length) context.clip(new Path2D(pathOf(garment.outline)));
  context.drawImage(photo, 0, 0, size.width, size.height);
  return canvas;
}
