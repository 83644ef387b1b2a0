// The gallery and the line of waiting jobs.

import { get, pngOf } from "./api.js";
import { byId, make, ordinal, seconds } from "./dom.js";
import { isActive, isLesson, titleOf } from "./job.js";

export class Wall {
  constructor(onPick) {
    this.onPick = onPick;
    this.tiles = new Map();
    this.next = null;
    this.place = byId("wall");
    byId("older").addEventListener("click", () => this.older());
  }

  async load() {
    const page = await get("/v1/images?limit=60");
    this.append(page);
    byId("gallery-empty").hidden = this.tiles.size > 0;
  }

  async older() {
    this.append(await get(`/v1/images?limit=60&before=${encodeURIComponent(this.next)}`));
  }

  append(page) {
    this.next = page.next;
    byId("older").hidden = page.next === null;
    for (const image of page.images) if (!this.tiles.has(image.id)) this.place.append(this.tile(image.id, image.recipe?.request?.prompt));
  }

  tile(id, prompt = "a picture") {
    const image = make("img", { src: pngOf(id), alt: prompt, loading: "lazy", decoding: "async" });
    const tile = make("button", { type: "button", title: prompt, data: { id }, on: { click: () => this.onPick(id) } }, image);
    this.tiles.set(id, tile);
    byId("gallery-empty").hidden = true;
    return tile;
  }

  add(id, prompt) {
    if (this.tiles.has(id)) return;
    const after = [...this.place.children].find((tile) => tile.dataset.id < id);
    this.place.insertBefore(this.tile(id, prompt), after ?? null);
  }

  remove(id) {
    this.tiles.get(id)?.remove();
    this.tiles.delete(id);
    byId("gallery-empty").hidden = this.tiles.size > 0;
  }

  current(id) {
    for (const [name, tile] of this.tiles) tile.setAttribute("aria-current", String(name === id));
  }

  // The picture beside another one; step is 1 for older, -1 for newer.
  beside(id, step) {
    const ids = [...this.place.children].map((tile) => tile.dataset.id);
    return ids[ids.indexOf(id) + step] ?? null;
  }
}

export class Queue {
  constructor(onStop, onPick) {
    this.onStop = onStop;
    this.onPick = onPick;
    this.place = byId("queue");
    this.rows = new Map();
  }

  // Rows of all jobs that wait or run, but for the one on stage.
  show(jobs, onStage) {
    const shown = jobs.filter((job) => isActive(job) && job.id !== onStage);
    const wanted = new Set(shown.map((job) => job.id));
    for (const [id, row] of this.rows) if (!wanted.has(id)) { row.remove(); this.rows.delete(id); }
    shown.sort((a, b) => a.ahead - b.ahead);
    for (const job of shown) this.update(job);
    this.place.hidden = shown.length === 0;
  }

  update(job) {
    let row = this.rows.get(job.id);
    if (!row) {
      row = make(
        "div",
        { class: "waiting" },
        make("img", { class: "thumb", alt: "", hidden: true }),
        make("div", {}, make("p", { text: titleOf(job) }), make("p", { class: "place" })),
        make("button", { type: "button", class: "small", text: "Stop", on: { click: () => this.onStop(job) } }),
        make("i"),
      );
      row.firstElementChild.before(make("span", { class: "thumb" }));
      this.rows.set(job.id, row);
    }
    this.place.append(row);
    const [blank, thumb] = row.querySelectorAll(".thumb");
    if (job.previews[0]) { thumb.src = job.previews[0]; thumb.hidden = false; blank.hidden = true; }
    row.querySelector(".place").textContent = {
      waiting: `${ordinal(job.ahead + 1)} in line`,
      running: working(job),
      stopping: "stopping …",
    }[job.state];
    row.querySelector("i").style.width = `${100 * job.progress}%`;
  }
}

function working(job) {
  const steps = job.steps ? `step ${job.step} of ${job.steps}` : job.stage;
  const slower = isLesson(job) ? "drawing is slower meanwhile" : "";
  return [steps, seconds(job.seconds_left), slower].filter(Boolean).join(" · ");
}
