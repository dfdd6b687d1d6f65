// Requests to the server's API; every failure is a Problem with a sentence for people.

import { sentence } from "./dom.js";

export class Problem extends Error {}

const TRIES = 3;
const MAX_PAUSE_S = 5;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function request(path, options = {}, tries = TRIES) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 503 && tries > 1) {
    await pause(Math.min(MAX_PAUSE_S, Number(answer.headers.get("Retry-After")) || 1));
    return request(path, options, tries - 1);
  }
  const { error } = await answer.json().catch(() => ({}));
  throw new Problem(sentence(error || `the server answered ${answer.status}`));
}

const json = async (path, options) => (await request(path, options)).json();

const given = (values) =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value != null && value !== "" && value !== false));

const post = (path, body, signal) =>
  json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given(body)), signal });

/** What the server has: its gallery, its filters, its limits. */
export const about = () => json("about");

/** An example photo, as a blob. */
export const example = async (number) => (await request(`examples/${number}`)).blob();

/** The garments of a photo with their matches, for each of some crops; or those of one box. */
export function search(photo, query, crops, box, signal) {
  const parameters = new URLSearchParams(given({ ...query, box: box && box.join(",") }));
  for (const crop of crops) parameters.append("crop", crop);
  return json(`search?${parameters}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: photo, signal });
}

/** The matches of a vector from an earlier search. */
export const searchVector = (vector, garment, crop, query, signal) =>
  post("search/vector", { ...query, vector, garment, crop }, signal);

/** Items that fit a text. */
export const searchText = (text, crop, query, signal) => post("search/text", { ...query, text, crop }, signal);

/** Items that resemble an item. */
export const searchItem = (item, crop, query, signal) => post("search/item", { ...query, item, crop }, signal);
