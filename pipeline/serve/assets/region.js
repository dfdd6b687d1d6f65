// A box that the visitor draws: with a mouse or pen anywhere on the photo, with a finger after "Draw a box", or with keys.

import { byId } from "./dom.js";

const LEAST = 0.02; // the shortest side, as a share of the photo's
const STEP = 0.02; // of an arrow key, likewise
const DRAG_PX = 6; // a shorter drag is a click

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** The region, in fractions of the photo's sides; calls `search()` after each change, and `removed()`. */
export class Region {
  constructor(search, removed) {
    this.search = search;
    this.removed = removed;
    this.scene = byId("scene");
    this.element = byId("region");
    this.drag = null;
    this.scene.addEventListener("pointerdown", (event) => this.start(event));
    this.scene.addEventListener("pointermove", (event) => this.move(event));
    this.scene.addEventListener("pointerup", (event) => this.end(event));
    this.scene.addEventListener("pointercancel", () => this.cancel());
    this.scene.addEventListener("dragstart", (event) => event.preventDefault());
    this.scene.addEventListener("click", (event) => this.swallow(event), true);
    this.element.addEventListener("keydown", (event) => this.key(event));
    byId("draw").addEventListener("click", () => (this.drawing || this.box ? this.remove() : this.begin()));
  }

  /** The region in pixels of a photo: [x1, y1, x2, y2]. */
  pixels({ width, height }) {
    const [x1, y1, x2, y2] = this.box;
    const [left, top] = [Math.floor(x1 * width), Math.floor(y1 * height)];
    return [left, top, Math.max(left + 1, Math.round(x2 * width)), Math.max(top + 1, Math.round(y2 * height))];
  }

  /** Remove the box without a call. */
  clear() {
    this.box = null;
    this.setDrawing(false);
    this.element.hidden = true;
  }

  remove() {
    this.clear();
    byId("draw").focus();
    this.removed();
  }

  /** Put a box into the middle, to be moved; with a finger the next drag draws another. */
  begin() {
    this.setDrawing(true);
    this.box = [0.3, 0.3, 0.7, 0.7];
    this.paint();
    this.element.focus();
    this.search();
  }

  setDrawing(on) {
    this.drawing = on;
    this.scene.classList.toggle("drawing", on);
    byId("draw").setAttribute("aria-pressed", String(on));
    byId("draw").textContent = on ? "Remove the box" : "Draw a box";
  }

  at(event) {
    const { left, top, width, height } = byId("shapes").getBoundingClientRect();
    return [clamp((event.clientX - left) / width, 0, 1), clamp((event.clientY - top) / height, 0, 1)];
  }

  start(event) {
    if (event.button || !byId("photo").src) return;
    const corner = event.target.dataset.corner;
    const onRegion = this.element.contains(event.target);
    if (!onRegion && event.pointerType === "touch" && !this.drawing) return; // the finger scrolls the page
    const from = this.at(event);
    const kind = corner || (onRegion ? "move" : "new");
    this.drag = { kind, from, box: this.box && [...this.box], x: event.clientX, y: event.clientY, moved: false, id: event.pointerId };
  }

  move(event) {
    const drag = this.drag;
    if (!drag || event.pointerId !== drag.id) return;
    if (!drag.moved) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_PX) return;
      drag.moved = true;
      this.scene.setPointerCapture(drag.id);
      this.setDrawing(true);
    }
    const [x, y] = this.at(event);
    if (drag.kind === "move") this.shift(drag.box, x - drag.from[0], y - drag.from[1]);
    else this.span(drag.kind === "new" ? drag.from : opposite(drag.kind, drag.box), [x, y]);
  }

  end(event) {
    const drag = this.drag;
    this.drag = null;
    if (!drag || !drag.moved) return;
    this.swallowing = event.timeStamp;
    if (drag.kind === "new") this.element.focus({ preventScroll: true });
    this.search();
  }

  cancel() {
    this.drag = null;
  }

  /** Stop the click that ends a drag from choosing a garment. */
  swallow(event) {
    if (this.swallowing === undefined || event.timeStamp - this.swallowing > 100) return;
    this.swallowing = undefined;
    event.stopPropagation();
  }

  shift([x1, y1, x2, y2], across, down) {
    const [w, h] = [x2 - x1, y2 - y1];
    const [left, top] = [clamp(x1 + across, 0, 1 - w), clamp(y1 + down, 0, 1 - h)];
    this.box = [left, top, left + w, top + h];
    this.paint();
  }

  span([x1, y1], [x2, y2]) {
    const [left, top] = [clamp(Math.min(x1, x2), 0, 1 - LEAST), clamp(Math.min(y1, y2), 0, 1 - LEAST)];
    this.box = [left, top, Math.max(left + LEAST, Math.max(x1, x2)), Math.max(top + LEAST, Math.max(y1, y2))];
    this.paint();
  }

  key(event) {
    const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (by) {
      const [x1, y1, x2, y2] = this.box;
      if (event.shiftKey) this.span([x1, y1], [clamp(x2 + by[0], x1 + LEAST, 1), clamp(y2 + by[1], y1 + LEAST, 1)]);
      else this.shift(this.box, ...by);
    } else if (event.key === "Enter") this.search();
    else if (event.key === "Escape") this.remove();
    else return;
    event.preventDefault();
  }

  paint() {
    const [x1, y1, x2, y2] = this.box;
    const { style } = this.element;
    this.element.hidden = false;
    [style.left, style.top] = [`${100 * x1}%`, `${100 * y1}%`];
    [style.width, style.height] = [`${100 * (x2 - x1)}%`, `${100 * (y2 - y1)}%`];
  }
}

const opposite = (corner, [x1, y1, x2, y2]) => [corner.includes("w") ? x2 : x1, corner.includes("n") ? y2 : y1];
