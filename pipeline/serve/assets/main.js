// The page: a photo, its garments, the one that is chosen, and what looks like it.

import { about as askAbout, Problem, search, searchItem, searchVector } from "./api.js";
import { byId, plural } from "./dom.js";
import { Filters } from "./filters.js";
import { showMatches, summary } from "./matches.js";
import { photosFrom, sendable } from "./photo.js";
import { Region } from "./region.js";
import { Scene } from "./scene.js";

const tell = (text) => (byId("status").textContent = text);

function complain(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) console.error(error);
  byId("problem").textContent = error instanceof Problem ? error.message : "Something went wrong on this page.";
  byId("problem").hidden = false;
  tell("");
  busy(false);
}

const busy = (on) => byId("sides").setAttribute("aria-busy", String(on));

class Page {
  constructor(about) {
    this.about = about;
    this.sources = []; // what matches are shown for: a garment, then items one after the other
    this.scene = new Scene((number) => {
      this.choose(number);
      const results = byId("results"); // on a phone they are below the photo
      if (results.getBoundingClientRect().top > 0.85 * innerHeight) results.scrollIntoView({ behavior: "smooth" });
    });
    this.region = new Region(() => this.searchBox(this.region.pixels(this.found), "the box"), () => this.choose(this.found.garments.length ? 0 : null));
    this.filters = new Filters(about, () => this.refresh());
    byId("back").addEventListener("click", () => this.back());
    byId("whole").addEventListener("click", () => {
      this.region.clear();
      this.searchBox([0, 0, this.found.width, this.found.height], "the whole photo");
    });
    photosFrom(about, (photo, name) => this.take(photo, name), complain);
  }

  /** Cancels what was asked before; gives the signal of what is asked now. */
  signal() {
    this.asking?.abort();
    this.asking = new AbortController();
    byId("problem").hidden = true;
    return this.asking.signal;
  }

  async take(photo, name) {
    const signal = this.signal();
    tell("Looking for garments …");
    busy(true);
    try {
      const sent = await sendable(photo, this.about);
      if (signal.aborted) return;
      this.show(sent, name);
      const asked = this.filters.wantedOfPhoto();
      this.found = await search(sent, asked, this.about.crops.map(({ crop }) => crop), null, signal);
      this.photo = sent;
      byId("desk").hidden = false;
      await byId("photo").decode().catch(() => null); // one that this browser cannot show is searched all the same
      this.scene.draw(this.found, (label) => this.color(label));
      for (const garment of this.found.garments) garment.asked = this.key(garment.label);
      if (this.found.garments.length) this.choose(prominent(this.found.garments), `${plural(this.found.garments.length, "garment")} found: ${list(this.found.garments)}. `);
      else this.nothing();
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
    byId("desk").hidden = true;
    byId("results").hidden = true;
    this.scene.show(this.url, name);
  }

  /** Say plainly that there is no garment, and what can be done. */
  nothing() {
    this.sources = [];
    byId("results").hidden = true;
    tell("No garment was found in this photo. Draw a box around what you look for, or search by the whole photo.");
  }

  /** Show the matches of a garment, which the photo's search has brought already. */
  choose(number, before = "") {
    this.region.clear();
    if (number === null) return this.nothing();
    const garment = this.found.garments[number];
    this.scene.mark(number);
    this.sources = [{ what: `the ${garment.label}`, title: `Like the ${garment.label}`, garment, group: garment.label, results: garment.results, asked: garment.asked }];
    return this.refresh(before);
  }

  async searchBox(box, what) {
    const signal = this.signal();
    this.scene.mark(null);
    byId("results").hidden = false;
    tell(`Searching by ${what} …`);
    busy(true);
    try {
      const asked = this.key("");
      const { garments: [garment] } = await search(this.photo, this.filters.wanted(""), this.about.crops.map(({ crop }) => crop), box, signal);
      this.sources = [{ what, title: `Like ${what}`, garment, group: "", results: garment.results, asked }];
      await this.refresh();
    } catch (error) {
      complain(error);
    }
  }

  moreLike(match) {
    this.sources.push({ what: `item ${match.item}`, title: `Like item ${match.item}`, garment: null, group: match.label, item: match.item });
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

  key(group) {
    return JSON.stringify(this.filters.wanted(group));
  }

  /** Ask again for what is shown, where the controls have changed since; then show it. */
  async refresh(before = "") {
    const source = this.sources.at(-1);
    if (!source) return;
    const signal = this.signal();
    byId("results").hidden = false;
    byId("what").textContent = source.title;
    byId("back").hidden = this.sources.length < 2;
    busy(true);
    try {
      const [crops, wanted] = [this.filters.crops, this.filters.wanted(source.group)];
      const asked = this.key(source.group);
      const known = source.asked === asked ? source.results : [];
      const results = await Promise.all(crops.map((crop) => known.find((one) => one.crop === crop) || this.ask(source, crop, wanted, signal)));
      if (signal.aborted) return;
      showMatches(results, { about: this.about, garment: source.garment, photo: this.found, more: (match) => this.moreLike(match) });
      byId("sides").style.setProperty("--color", this.color(source.group));
      tell(before + summary(results, source.what));
      busy(false);
    } catch (error) {
      complain(error);
    }
  }

  ask(source, crop, wanted, signal) {
    if (source.item) return searchItem(source.item, crop, wanted, signal);
    const { vector } = source.results.find((one) => one.crop === crop);
    return searchVector(vector, source.group, crop, wanted, signal);
  }
}

const list = (garments) => garments.map(({ label }) => label).join(", ");

/** The garment that a photo most likely is about: the largest for its score. */
function prominent(garments) {
  const weight = ({ score, box: [x1, y1, x2, y2] }) => score * (x2 - x1) * (y2 - y1);
  return garments.reduce((best, garment, number) => (weight(garment) > weight(garments[best]) ? number : best), 0);
}

byId("start").classList.add("empty");
try {
  const about = await askAbout();
  byId("gallery").textContent = about.gallery;
  byId("stock").textContent = `${plural(about.items, "item")} in ${plural(about.photos, "photo")}`;
  document.title = `${about.gallery} – outfinder`;
  if (!about.photos) complain(new Problem("The gallery is empty: add a catalogue to it with outfinder index."));
  new Page(about);
} catch (error) {
  complain(error);
}
