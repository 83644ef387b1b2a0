// A prompt whose words show, on the picture, where they acted.

import { get, post } from "./api.js";
import { byId, make, seconds } from "./dom.js";
import { isActive } from "./job.js";

const WORD = /[\p{L}\p{N}]+/gu;

export class Words {
  // attempt: runs what may be refused, and shows why; onJob: takes a job in.
  constructor(attempt, onJob) {
    this.attempt = attempt;
    this.onJob = onJob;
    this.entry = null;
    this.known = new Map();
  }

  // The prompt of a finished picture.
  show(entry) {
    this.entry = entry;
    const prompt = entry.recipe.request.prompt;
    if (entry.words) this.known.set(entry.id, entry.words);
    const words = this.known.get(entry.id);
    byId("said").replaceChildren(...(words ? this.marked(prompt, words) : [prompt]));
    this.hint(words ? "Hover a word, or tap it, to see where it acted." : "");
    if (!words && canExplain(entry)) {
      const ask = make("button", { type: "button", class: "link", text: "See where each word acted", on: { click: () => this.ask() } });
      byId("word-hint").replaceChildren(ask);
      byId("word-hint").hidden = false;
    }
  }

  // Text that is no finished picture's.
  plain(text) {
    this.entry = null;
    byId("said").textContent = text;
    this.hint("");
    this.look(null);
  }

  hint(text) {
    byId("word-hint").textContent = text;
    byId("word-hint").hidden = text === "";
    this.look(null);
  }

  ask() {
    this.hint("Drawing it again, to look at its words …");
    return this.attempt(async () => this.onJob(await post(`/v1/images/${encodeURIComponent(this.entry.id)}/words`)));
  }

  // News of a job that looks at words.
  async took(job) {
    if (job.asked.picture !== this.entry?.id || this.known.has(this.entry.id)) return;
    if (job.state === "done") {
      const entry = await get(`/v1/images/${encodeURIComponent(job.asked.picture)}`);
      if (entry.id === this.entry?.id) this.show(entry);
    } else if (isActive(job)) {
      this.hint(job.state === "waiting" ? "Its words are looked at once it is its turn …" : `Looking at its words: step ${job.step} of ${job.steps} ${seconds(job.seconds_left)}`);
    } else this.hint(job.error ?? "");
  }

  // The prompt with a button for every word that has a map.
  marked(prompt, words) {
    const found = [];
    let at = 0;
    let next = 0;
    for (const match of prompt.matchAll(WORD)) {
      const place = words.findIndex((one, k) => k >= next && same(one.word, match[0]));
      if (place < 0) continue;
      next = place + 1;
      found.push(prompt.slice(at, match.index), this.word(match[0], words[place]));
      at = match.index + match[0].length;
    }
    return [...found, prompt.slice(at)];
  }

  word(text, word) {
    const on = () => this.look(word);
    const off = () => this.look(null);
    return make("button", {
      type: "button", class: "word", text, "aria-label": `${text}: see where it acted`,
      on: { pointerenter: on, pointerleave: off, focus: on, blur: off, click: on },
    });
  }

  look(word) {
    const heat = byId("heat");
    heat.hidden = word === null;
    if (!word) return;
    heat.src = word.heat;
    heat.alt = `Where “${word.word}” acted`;
    byId("word-hint").textContent = word.contrast < 1.15
      ? `“${word.word}” acted nearly everywhere alike.`
      : `“${word.word}” acted most where it is bright: ${word.contrast.toFixed(1)} times the average.`;
  }
}

const same = (one, other) => one.toLowerCase() === other.toLowerCase();

function canExplain(entry) {
  const { source, upscale } = entry.recipe.request;
  return entry.pictures === 1 && !upscale && !source?.inpaint && !source?.inversion;
}
