// Matches as a grid of product pictures; two grids where two ways of cutting are compared.

import { byId, el, plural } from "./dom.js";
import { cutPicture } from "./scene.js";

const VERDICTS = { "same item": ["same", "Same"], "not sure": ["unsure", "Not sure"], different: ["different", "Different"] };
const DETAILS = 4;

/**
 * Show what was found.
 * @param results of each way of cutting: {crop, matches}
 * @param shown {about, garment, photo, more}: the server's gallery; the garment whose cut is shown, or null; the size
 *   of its photo; what is called with a match for more like it
 */
export function showMatches(results, shown) {
  const both = results.length > 1;
  byId("sides").classList.toggle("both", both);
  byId("sides").replaceChildren(...results.map((result) => side(result, shown, both)));
}

function side({ crop, matches }, { about, garment, photo, more }, both) {
  const named = both || about.crops.length > 1;
  const grid = matches.length
    ? el("ol", { class: "matches", "aria-label": both ? `Matches, cut out by ${crop}` : "Matches" }, ...matches.map((match) => card(match, more)))
    : el("p", { class: "card nothing soft" }, "Nothing in the gallery fits. Choose another kind, or clear the filters.");
  return el("section", { class: "side", "data-crop": crop },
    named && garment ? el("header", {}, cutPicture(garment, photo, crop.startsWith("mask")), el("div", {}, el("h3", {}, `Cut out by ${crop}`), note(crop, about, garment))) : null,
    grid);
}

function note(crop, about, garment) {
  const { gallery_crop: own } = about.crops.find((way) => way.crop === crop);
  const said = [
    crop.startsWith("mask") && !garment.outline.length && "There is no mask here, so that this is the box.",
    own !== crop && `The gallery's photos were cut out by ${own}.`,
  ].filter(Boolean);
  return said.length ? el("p", { class: "soft" }, said.join(" ")) : null;
}

function card(match, more) {
  const share = Math.max(0, Math.min(1, match.similarity));
  const bar = el("i");
  bar.style.width = `${100 * share}%`;
  const picture = el("img", { src: match.picture, alt: `Item ${match.item}`, loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.replaceWith("no picture"));
  const [kind, verdict] = VERDICTS[match.verdict] || [];
  const details = Object.entries(match.details).filter(([, value]) => value && value !== match.label).slice(0, DETAILS);
  return el("li", { class: "match", "data-item": match.item },
    el("div", { class: "product" }, picture),
    el("div", { class: "near" }, el("span", { class: "bar", "aria-hidden": "true" }, bar),
      el("span", { class: "number", title: "similarity", "aria-label": `similarity ${match.similarity.toFixed(3)}` }, match.similarity.toFixed(3))),
    verdict ? el("span", { class: `verdict ${kind}` }, verdict) : null,
    el("bdi", { class: "item clip" }, match.item),
    match.name ? el("bdi", { class: "clip" }, match.name) : null,
    match.price ? el("bdi", { class: "price" }, match.price) : null,
    el("bdi", { class: "soft" }, match.label),
    ...details.map(([key, value]) => el("bdi", { class: "soft clip" }, `${key}: ${value}`)),
    ...match.links.map((href) => el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, `${new URL(href).hostname} ↗`)),
    el("button", { type: "button", class: "more", "aria-label": `More like ${match.item}`, onclick: () => more(match) }, "More like this"));
}

/** In words, for the status line and screen readers. */
export function summary(results, what) {
  const counts = results.map(({ crop, matches }) => `${plural(matches.length, "match", "matches")}${results.length > 1 ? ` by ${crop}` : ""}`);
  return `${counts.join(", ")} for ${what}.`;
}
