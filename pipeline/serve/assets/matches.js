// Matches as a grid of product cards; two grids if two crops are compared.

import { byId, el, plural, sentence, shownLabel } from "./dom.js";
import { cutPicture } from "./scene.js";

const VERDICTS = { "same item": ["same", "Same"], "not sure": ["unsure", "Not sure"], different: ["different", "Different"] };
const DETAILS = 4;

/**
 * Show what a search found.
 * @param results one per crop: {crop, matches, notice}
 * @param context {about, garment, size, more, anyKind}: the server; the garment that was searched, or null; the size of
 *   its photo; a function of a match that searches for more like it; one that searches all kinds
 */
export function showMatches(results, context) {
  const both = results.length > 1;
  byId("sides").classList.toggle("both", both);
  byId("sides").replaceChildren(...results.map((result) => side(result, context, both)));
}

function side({ crop, matches, notice }, context, both) {
  const cards = el("ol", { class: "matches", "aria-label": both ? `Matches, cut out by ${crop}` : "Matches" },
    ...styles(matches).map((variants) => card(variants, 0, context)));
  return el("section", { class: "side", "data-crop": crop },
    context.about.crops.length > 1 && context.garment ? cutHeader(crop, context) : null,
    matches.length ? cards : nothing(notice, context));
}

function nothing(notice, { anyKind }) {
  return el("div", { class: "card nothing" },
    el("p", {}, notice ? sentence(notice) : "Nothing in the gallery fits. Choose another kind, or clear the filters."),
    notice ? el("button", { type: "button", onclick: anyKind }, "Show similar items of any kind") : null);
}

function cutHeader(crop, { about, garment, size }) {
  const { gallery_crop: galleryCrop } = about.crops.find((one) => one.crop === crop);
  const notes = [
    crop.startsWith("mask") && !garment.outline.length && "There is no mask here, so this is the box.",
    galleryCrop !== crop && `The gallery's photos were cut out by ${galleryCrop}.`,
  ].filter(Boolean);
  return el("header", {}, cutPicture(garment, size, crop.startsWith("mask")),
    el("div", {}, el("h3", {}, `Cut out by ${crop}`), notes.length ? el("p", { class: "soft" }, notes.join(" ")) : null));
}

/** Matches grouped by style: color variants share a card. */
function styles(matches) {
  const groups = new Map();
  for (const match of matches) {
    const key = match.style ? `style ${match.style}` : `item ${match.item}`;
    groups.set(key, [...(groups.get(key) || []), match]);
  }
  return [...groups.values()];
}

function card(variants, shown, context) {
  const match = variants[shown];
  const [kind, verdict] = VERDICTS[match.verdict] || [];
  const details = Object.entries(match.details).filter(([, value]) => value && value !== match.label).slice(0, DETAILS);
  const element = el("li", { class: "match", "data-item": match.item },
    el("div", { class: "product" }, productPicture(match, `Item ${match.item}`)),
    similarity(match.similarity),
    verdict ? el("span", { class: `verdict ${kind}` }, verdict) : null,
    el("bdi", { class: "item clip" }, match.item),
    match.name ? el("bdi", { class: "clip" }, match.name) : null,
    match.price ? el("bdi", { class: "price" }, match.price) : null,
    shownLabel(match.label) === match.label ? el("bdi", { class: "soft" }, match.label) : null,
    ...details.map(([key, value]) => el("bdi", { class: "soft clip detail" }, `${key}: ${value}`)),
    ...match.links.map((href) => el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, `${new URL(href).hostname} ↗`)),
    variants.length > 1 ? variantButtons(variants, shown, (number) => {
      const other = card(variants, number, context);
      element.replaceWith(other);
      other.querySelector(".variants [aria-pressed=true]").focus();
    }) : null,
    el("button", { type: "button", class: "more", "aria-label": `More like ${match.item}`, onclick: () => context.more(match) }, "More like this"));
  return element;
}

function similarity(value) {
  const bar = el("i");
  bar.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
  return el("div", { class: "near" }, el("span", { class: "bar", "aria-hidden": "true" }, bar),
    el("span", { class: "number", title: "similarity", "aria-label": `similarity ${value.toFixed(3)}` }, value.toFixed(3)));
}

function variantButtons(variants, shown, choose) {
  const buttons = variants.map((variant, number) =>
    el("button", { type: "button", "aria-pressed": String(number === shown), "aria-label": `Variant ${variant.item}`, onclick: () => choose(number) },
      productPicture(variant, "")));
  return el("div", { class: "variants", role: "group", "aria-label": "Variants of this style" }, ...buttons);
}

/** The picture of an item; text if it cannot be loaded. */
export function productPicture(match, alt) {
  const picture = el("img", { src: match.picture, alt, loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.replaceWith("no picture"));
  return picture;
}

/** The number of matches in words, for the status line and screen readers. */
export function summary(results, source) {
  const counts = results.map(({ crop, matches }) => `${plural(matches.length, "match", "matches")}${results.length > 1 ? ` by ${crop}` : ""}`);
  return `${counts.join(", ")} for ${source}.`;
}
