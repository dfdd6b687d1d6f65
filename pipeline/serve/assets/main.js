// The page: a photo, its garments, the chosen one, and the items that resemble it.

import { about as fetchAbout, Problem, search, searchItem, searchText, searchVector } from "./api.js";
import { byId, plural, sentence, shownLabel } from "./dom.js";
import { Filters } from "./filters.js";
import { productPicture, showMatches, summary } from "./matches.js";
import { photosFrom, sendable } from "./photo.js";
import { Region } from "./region.js";
import { cutPicture, Scene } from "./scene.js";

const say = (text) => (byId("status").textContent = text);
const setBusy = (busy) => byId("sides").setAttribute("aria-busy", String(busy));

function complain(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) console.error(error);
  byId("problem").textContent = error instanceof Problem ? error.message : "Something went wrong on this page.";
  byId("problem").hidden = false;
  say("");
  setBusy(false);
}

class Page {
  constructor(about) {
    this.about = about;
    this.sources = []; // what matches are shown for: a garment, then one item after the other
    this.scene = new Scene((number) => {
      this.choose(number);
      const results = byId("results"); // on a phone they are below the photo
      if (results.getBoundingClientRect().top > 0.85 * innerHeight) results.scrollIntoView({ behavior: "smooth" });
    });
    this.region = new Region(
      () => this.searchBox(this.region.pixels(this.found), "the box"),
      () => this.choose(this.found.garments.length ? 0 : null),
    );
    this.filters = new Filters(about, () => this.refresh());
    byId("back").addEventListener("click", () => this.back());
    byId("whole").addEventListener("click", () => {
      this.region.clear();
      this.searchBox([0, 0, this.found.width, this.found.height], "the whole photo");
    });
    byId("words").hidden = !about.reads_text;
    byId("words").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = byId("text").value.trim();
      if (text) this.searchWords(text);
    });
    photosFrom(about, (photo, name) => this.take(photo, name), complain);
  }

  get crops() {
    return this.about.crops.map(({ crop }) => crop);
  }

  /** Cancels the previous request and returns the signal of the next. */
  nextSignal() {
    this.controller?.abort();
    this.controller = new AbortController();
    byId("problem").hidden = true;
    return this.controller.signal;
  }

  async take(photo, name) {
    const signal = this.nextSignal();
    say("Looking for garments …");
    setBusy(true);
    try {
      const sent = await sendable(photo, this.about);
      if (signal.aborted) return;
      this.show(sent, name);
      this.found = await search(sent, this.filters.photoQuery(), this.crops, null, signal);
      this.photo = sent;
      byId("desk").hidden = false;
      await byId("photo").decode().catch(() => null); // a photo that this browser cannot show is searched all the same
      this.scene.draw(this.found, (label) => this.color(label));
      const { garments } = this.found;
      for (const garment of garments) garment.key = this.key(garment.label);
      if (!garments.length) return this.noGarment();
      const labels = garments.map(({ label }) => shownLabel(label)).join(", ");
      await this.choose(mostProminent(garments), `${plural(garments.length, "garment")} found: ${labels}. `);
    } catch (error) {
      complain(error);
    }
  }

  show(photo, name) {
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(photo);
    this.found = this.photo = null;
    this.region.clear();
    byId("start").classList.remove("empty");
    byId("desk").classList.remove("worded");
    byId("desk").hidden = true;
    byId("results").hidden = true;
    this.scene.show(this.url, name);
  }

  searchWords(text) {
    this.sources = [{ name: `“${text}”`, garment: null, group: "", text }];
    byId("start").classList.remove("empty");
    byId("desk").hidden = false;
    byId("desk").classList.add("worded");
    byId("but").value = "";
    return this.refresh();
  }

  noGarment() {
    this.sources = [];
    byId("results").hidden = true;
    this.scene.mark(null);
    say("No garment was found in this photo. Draw a box around what you are looking for, or search by the whole photo.");
  }

  /** Show the matches of a garment, which the photo's search has returned already. */
  choose(number, before = "") {
    this.region.clear();
    if (number === null) return this.noGarment();
    const garment = this.found.garments[number];
    const name = `the ${shownLabel(garment.label)}`;
    this.scene.mark(number);
    this.sources = [{ name, garment, group: garment.label, results: garment.results, key: garment.key }];
    return this.refresh(before);
  }

  async searchBox(box, name) {
    const signal = this.nextSignal();
    this.scene.mark(null);
    byId("results").hidden = false;
    say(`Searching by ${name} …`);
    setBusy(true);
    try {
      const key = this.key("");
      const { garments: [garment] } = await search(this.photo, this.filters.query(""), this.crops, box, signal);
      this.sources = [{ name, garment, group: "", results: garment.results, key }];
      await this.refresh();
    } catch (error) {
      complain(error);
    }
  }

  moreLike(match) {
    this.sources.push({ name: `item ${match.item}`, garment: null, group: match.label, match });
    this.refresh();
    byId("results").focus();
    byId("results").scrollIntoView({ block: "start" });
  }

  back() {
    this.sources.pop();
    this.refresh();
    byId("results").focus();
  }

  color(label) {
    return this.about.colors[label] || "#475569";
  }

  /** Identifies the query for a garment group: results of the same key need not be fetched again. */
  key(group) {
    return JSON.stringify(this.filters.query(group));
  }

  /** Show the matches of the latest source, fetched again if the controls have changed since. */
  async refresh(before = "") {
    const source = this.sources.at(-1);
    if (!source) return;
    const signal = this.nextSignal();
    byId("results").hidden = false;
    byId("back").hidden = this.sources.length < 2;
    this.showSource(source);
    setBusy(true);
    try {
      const known = source.key === this.key(source.group) ? source.results : [];
      const results = await Promise.all(
        this.filters.crops.map((crop) => known.find((one) => one.crop === crop) || this.fetch(source, crop, signal)),
      );
      if (signal.aborted) return;
      showMatches(results, {
        about: this.about, garment: source.garment, size: this.found,
        more: (match) => this.moreLike(match),
        anyKind: () => (this.filters.searchAnyKind(), this.refresh()),
      });
      byId("sides").style.setProperty("--color", this.color(source.group));
      const unknown = results.map((result) => result.unknown).find(Boolean);
      say(before + summary(results, source.name) + (unknown ? ` ${sentence(unknown)}` : ""));
      setBusy(false);
    } catch (error) {
      complain(error);
    }
  }

  /** Show what the matches resemble: the garment as it was cut out, or an item with its name and price. */
  showSource({ name, garment, match, text }) {
    const words = match ? [match.item, match.name, match.price] : (garment?.attributes || []).map(({ value }) => value);
    byId("what").textContent = match ? "More like this" : text ? `Found by ${name}` : `Like ${name}`;
    byId("like").textContent = words.filter(Boolean).join(" · ");
    const picture = match ? productPicture(match, `Item ${match.item}`) : garment && cutPicture(garment, this.found, true);
    byId("source").hidden = !picture;
    byId("source").replaceChildren(...(picture ? [picture] : []));
  }

  fetch(source, crop, signal) {
    const query = this.filters.query(source.group);
    if (source.text) return searchText([source.text, query.text].filter(Boolean).join(" "), crop, { ...query, text: null }, signal);
    if (source.match) return searchItem(source.match.item, crop, query, signal);
    const { vector } = source.results.find((one) => one.crop === crop);
    return searchVector(vector, source.group, crop, query, signal);
  }
}

/** The garment that a photo most likely is about: the largest for its score. */
function mostProminent(garments) {
  const weight = ({ score, box: [x1, y1, x2, y2] }) => score * (x2 - x1) * (y2 - y1);
  return garments.reduce((best, garment, number) => (weight(garment) > weight(garments[best]) ? number : best), 0);
}

byId("start").classList.add("empty");
try {
  const about = await fetchAbout();
  byId("gallery").textContent = about.gallery;
  byId("stock").textContent = `${plural(about.items, "item")} in ${plural(about.photos, "photo")}`;
  document.title = `${about.gallery} – outfinder`;
  if (!about.photos) complain(new Problem("The gallery is empty: add a catalogue to it with outfinder index."));
  new Page(about);
} catch (error) {
  complain(error);
}
