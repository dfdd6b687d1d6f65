"use strict";

// Pictures enlarge: a link of class "enlarge" opens its target in a dialog; without scripts it opens the file.
const dialog = document.createElement("dialog");
const picture = document.createElement("img");
const caption = document.createElement("p");
dialog.className = "enlarged";
dialog.append(picture, caption);
dialog.addEventListener("click", () => dialog.close());
document.body.append(dialog);

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.enlarge");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const words = link.getAttribute("aria-label") || link.querySelector("img")?.alt || "";
  picture.src = link.href;
  picture.alt = words;
  caption.textContent = words;
  dialog.setAttribute("aria-label", words);
  dialog.showModal();
});

// The index filters by name and by kind; an entry's photo on this page hides with it.
const filter = document.getElementById("filter");
if (filter) {
  const entries = [...document.querySelectorAll(".entries > li")].map((element) => ({
    element,
    name: element.dataset.name.toLowerCase(),
    kinds: element.dataset.kinds.split("\n"),
    photo: document.getElementById(element.querySelector("a").hash.slice(1)),
  }));
  const buttons = [...filter.querySelectorAll("button")];
  const status = document.getElementById("filtered");

  const apply = () => {
    const words = filter.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = buttons.filter((button) => button.getAttribute("aria-pressed") === "true").map((button) => button.value);
    let shown = 0;
    for (const { element, name, kinds: own, photo } of entries) {
      const fits = words.every((word) => name.includes(word)) && kinds.every((kind) => own.includes(kind));
      element.hidden = !fits;
      if (photo) photo.hidden = !fits;
      shown += fits;
    }
    status.textContent = shown === entries.length ? "" : `${shown} of ${entries.length} shown`;
  };

  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
  filter.addEventListener("input", apply);
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.hidden = false;
}
