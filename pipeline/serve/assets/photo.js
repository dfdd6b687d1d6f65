// Sources of photos: a drop, the clipboard, a file, the camera, an example; and how they are sent.

import { byId } from "./dom.js";
import { example, Problem } from "./api.js";

const SENT_PX = 2048; // the longest side of a photo that was too large for the server

/** Call `take(blob, name)` for every photo that the visitor gives, and `tell(error)` if there is none. */
export function photosFrom(about, take, tell) {
  const start = byId("start");
  const first = (files, items = []) => {
    const file = [...files].find((one) => one.type.startsWith("image/")) || [...files][0];
    if (file) take(file, file.name);
    else if ([...items].length) tell(new Problem("That is not a photo. Drop or paste a picture file."));
  };

  for (const [button, input] of [["pick", "file"], ["shoot", "camera"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      first(event.target.files);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  byId("shoot").hidden = !matchMedia("(pointer: coarse)").matches;

  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    start.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || start.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    start.classList.remove("over");
    first(event.dataTransfer.files, event.dataTransfer.items);
  });
  document.addEventListener("paste", (event) => {
    if (event.target.closest("input, select")) return;
    first(event.clipboardData.files, event.clipboardData.items);
  });

  let last = -1;
  byId("surprise").hidden = !about.examples;
  byId("surprise").addEventListener("click", async () => {
    const step = about.examples > 1 && last >= 0 ? 1 + Math.floor(Math.random() * (about.examples - 1)) : 0;
    last = last < 0 ? Math.floor(Math.random() * about.examples) : (last + step) % about.examples;
    try {
      take(await example(last), "an example");
    } catch (error) {
      tell(error);
    }
  });
}

/** The photo as it is, or a smaller JPEG of it if the server would refuse it: too large, or in a format of phones. */
export async function sendable(photo, about) {
  const isHeic = /hei[cf]/.test(photo.type);
  const bitmap = await createImageBitmap(photo).catch(() => null);
  if (!bitmap) {
    if (isHeic || photo.size > about.max_bytes) throw new Problem("This photo is too large, or in a format that this browser cannot read. Save it as a JPEG first.");
    return photo; // the server may be able to read it, and says why if it is not
  }
  const { width, height } = bitmap;
  if (!isHeic && photo.size <= about.max_bytes && width * height <= about.max_pixels) {
    bitmap.close();
    return photo;
  }
  const scale = Math.min(1, SENT_PX / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((done, failed) =>
    canvas.toBlob((blob) => (blob ? done(blob) : failed(new Problem("This photo cannot be read."))), "image/jpeg", 0.92));
}
