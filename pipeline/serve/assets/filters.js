// What matches are wanted: kind, how many, cut out which way, and the catalogue's own columns.

import { byId, el } from "./dom.js";

const OWN = "own"; // the kind of the garment itself
const SETTLE_MS = 220;
const BOTH = "both";

const quoted = (text) => `"${text.replace(/[\\"]/g, "\\$&")}"`;

/** The controls above the matches; `changed()` is called a moment after one has been changed. */
export class Filters {
  constructor(about, changed) {
    this.about = about;
    const kinds = [["", "All kinds"], [OWN, "Its own kind"], ...Object.entries(about.labels).map(([label, count]) => [`=${label}`, `${label} (${count})`])];
    byId("kind").replaceChildren(...kinds.map(([value, text]) => el("option", { value }, text)));
    this.drawWays(about.crops);
    byId("filters").hidden = !about.columns.length;
    byId("columns").replaceChildren(...about.columns.map((column) => control(column)));
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("controls").addEventListener("input", () => this.soon(changed));
    byId("clear").addEventListener("click", () => {
      for (const input of byId("columns").querySelectorAll("input, select")) input.value = "";
      this.soon(changed);
    });
  }

  soon(changed) {
    byId("count").textContent = byId("k").value;
    const used = this.conditions().length;
    byId("filtered").textContent = used ? `(${used} in use)` : "";
    clearTimeout(this.timer);
    this.timer = setTimeout(changed, SETTLE_MS);
  }

  drawWays(crops) {
    const choices = crops.length > 1 ? [...crops.map(({ crop }) => crop), BOTH] : [];
    byId("crops").hidden = !choices.length;
    byId("ways").replaceChildren(...choices.map((value, number) =>
      el("label", {}, el("input", { type: "radio", name: "crop", value, checked: number === 0 }), value)));
  }

  /** The crops to show: one, or two side by side. */
  get crops() {
    const chosen = byId("ways").querySelector(":checked")?.value;
    const every = this.about.crops.map(({ crop }) => crop);
    return chosen === BOTH ? every : [chosen || every[0]];
  }

  conditions() {
    return [...byId("columns").querySelectorAll("[data-test]")].flatMap((input) =>
      input.value.trim() && input.validity.valid ? [`${quoted(input.dataset.column)} ${input.dataset.test} ${input.type === "number" ? input.value : quoted(input.value.trim())}`] : []);
  }

  /** What is asked for, for a garment of a label; "" where it has none. */
  wanted(label) {
    const kind = byId("kind").value;
    return {
      k: Number(byId("k").value),
      label: kind === OWN ? label || null : kind ? kind.slice(1) : null,
      where: this.conditions().join(" and ") || null,
    };
  }

  /** The same for a photo whose garments are not known yet. */
  wantedOfPhoto() {
    return { ...this.wanted(""), same_label: byId("kind").value === OWN };
  }
}

function control({ column, kind, values, least, most }) {
  const marks = (test) => ({ "data-column": column, "data-test": test });
  if (kind === "choice") {
    const options = values.map((value) => el("option", { value }, value));
    return el("label", { class: "field" }, column, el("select", marks("="), el("option", { value: "" }, "Any"), ...options));
  }
  if (kind === "number") {
    const bound = (test, name, placeholder) =>
      el("input", { type: "number", step: "any", inputmode: "decimal", "aria-label": `${column} ${name}`, placeholder, ...marks(test) });
    return el("fieldset", { class: "field" }, el("legend", {}, column),
      el("div", { class: "range" }, bound(">=", "from", `from ${least}`), bound("<=", "to", `to ${most}`)));
  }
  return el("label", { class: "field" }, column, el("input", { type: "text", placeholder: "contains …", maxlength: 100, ...marks("contains") }));
}
