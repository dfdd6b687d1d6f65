// The controls above the matches: kind, number, crop, and the catalogue's own columns.

import { byId, el, shownLabel } from "./dom.js";

const SAME = "same"; // the kind of the garment itself
const BOTH = "both";
const SETTLE_MS = 220;

const quoted = (text) => `"${text.replace(/[\\"]/g, "\\$&")}"`;

/** Calls `changed()` a moment after a control has been changed. */
export class Filters {
  constructor(about, changed) {
    this.about = about;
    this.anyKind = false;
    const labels = Object.entries(about.labels).filter(([label]) => shownLabel(label) === label);
    const kinds = [["", "All kinds"], [SAME, "Its own kind"], ...labels.map(([label, count]) => [`=${label}`, `${label} (${count})`])];
    byId("kind").replaceChildren(...kinds.map(([value, text]) => el("option", { value }, text)));
    this.drawCrops(about.crops);
    byId("refine").hidden = !about.reads_text;
    byId("filters").hidden = !about.columns.length;
    byId("columns").replaceChildren(...about.columns.map((column) => control(column)));
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("controls").addEventListener("input", (event) => {
      if (event.target === byId("kind")) this.anyKind = false;
      this.announce(changed);
    });
    byId("clear").addEventListener("click", () => {
      for (const input of byId("columns").querySelectorAll("input, select")) input.value = "";
      this.announce(changed);
    });
  }

  announce(changed) {
    byId("count").textContent = byId("k").value;
    const used = this.conditions().length;
    byId("filtered").textContent = used ? `(${used} in use)` : "";
    clearTimeout(this.timer);
    this.timer = setTimeout(changed, SETTLE_MS);
  }

  /** The choice of the crop, if there are two galleries to compare. */
  drawCrops(crops) {
    const choices = crops.length > 1 ? [...crops.map(({ crop }) => crop), BOTH] : [];
    byId("crops").hidden = !choices.length;
    byId("choices").replaceChildren(...choices.map((value, number) =>
      el("label", {}, el("input", { type: "radio", name: "crop", value, checked: number === 0 }), value)));
  }

  /** The crops to show: one, or two side by side. */
  get crops() {
    const chosen = byId("choices").querySelector(":checked")?.value;
    const all = this.about.crops.map(({ crop }) => crop);
    return chosen === BOTH ? all : [chosen || all[0]];
  }

  conditions() {
    return [...byId("columns").querySelectorAll("[data-test]")].flatMap((input) =>
      input.value.trim() && input.validity.valid ? [`${quoted(input.dataset.column)} ${input.dataset.test} ${input.type === "number" ? input.value : quoted(input.value.trim())}`] : []);
  }

  /** Search all kinds, also if the shop has nothing of the garment's kind. */
  searchAnyKind() {
    byId("kind").value = "";
    this.anyKind = true;
  }

  /** The query for a garment of a label, which is "" if it has none. */
  query(label) {
    const kind = byId("kind").value;
    return {
      k: Number(byId("k").value),
      label: kind === SAME ? label || null : kind ? kind.slice(1) : null,
      any_kind: this.anyKind,
      where: this.conditions().join(" and ") || null,
      text: byId("but").value.trim() || null,
    };
  }

  /** The query for a photo whose garments are not known yet. */
  photoQuery() {
    return { ...this.query(""), same_label: byId("kind").value === SAME };
  }
}

function control({ column: name, kind, values, least, most }) {
  const column = name.replace(/^attribute\./, ""); // what the embedder sees, not the catalogue
  const attributes = (test) => ({ "data-column": name, "data-test": test });
  if (kind === "choice") {
    const options = values.map((value) => el("option", { value }, value));
    return el("label", { class: "field" }, column, el("select", attributes("="), el("option", { value: "" }, "Any"), ...options));
  }
  if (kind === "number") {
    const bound = (test, name, placeholder) =>
      el("input", { type: "number", step: "any", inputmode: "decimal", "aria-label": `${column} ${name}`, placeholder, ...attributes(test) });
    return el("fieldset", { class: "field" }, el("legend", {}, column),
      el("div", { class: "range" }, bound(">=", "from", `from ${least}`), bound("<=", "to", `to ${most}`)));
  }
  return el("label", { class: "field" }, column, el("input", { type: "text", placeholder: "contains …", maxlength: 100, ...attributes("contains") }));
}
