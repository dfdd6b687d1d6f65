// The server's API; every failure is a Problem with a sentence for people.

export class Problem extends Error {}

const TRIES = 3;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function ask(path, options = {}, tries = TRIES) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 503 && tries > 1) {
    await pause(Math.min(5, Number(answer.headers.get("Retry-After")) || 1));
    return ask(path, options, tries - 1);
  }
  const told = await answer.json().catch(() => ({}));
  const said = told.error || `the server answered ${answer.status}`;
  throw new Problem(`${said[0].toUpperCase()}${said.slice(1)}.`);
}

const json = async (path, options) => (await ask(path, options)).json();

const asked = (wanted) =>
  Object.fromEntries(Object.entries(wanted).filter(([, value]) => value != null && value !== "" && value !== false));

const posted = (path, body, signal) =>
  json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked(body)), signal });

/** What the server has: its gallery, its filters, its limits. */
export const about = () => json("about");

/** A photo of the examples, as a blob. */
export const example = async (number) => (await ask(`examples/${number}`)).blob();

/** The garments of a photo with their matches, for each of some crops; or those of one box. */
export function search(photo, wanted, crops, box, signal) {
  const query = new URLSearchParams(asked({ ...wanted, box: box && box.join(",") }));
  for (const crop of crops) query.append("crop", crop);
  return json(`search?${query}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: photo, signal });
}

/** The matches of a vector that a search gave. */
export const searchVector = (vector, garment, crop, wanted, signal) =>
  posted("search/vector", { ...wanted, vector, garment, crop }, signal);

/** More like an item. */
export const searchItem = (item, crop, wanted, signal) => posted("search/item", { ...wanted, item, crop }, signal);
