// The pictures of a job below the large one: in a row, or as the grid of a sweep.

import { pngOf } from "./api.js";
import { byId, make } from "./dom.js";
import { isActive } from "./job.js";
import { titleOf } from "./sweep.js";

export class Strip {
  // look: shows a picture by its id, or what is being drawn for null.
  constructor(look) {
    this.look = look;
    this.place = byId("strip");
  }

  hide() {
    this.place.hidden = true;
  }

  show(job, current) {
    const { place } = this;
    place.hidden = job.asked.num_images < 2;
    if (place.hidden) return;
    const key = [job.id, isActive(job), job.grid, ...job.images].join(" ");
    if (place.dataset.key !== key) {
      place.dataset.key = key;
      const tiles = this.tiles(job);
      place.classList.toggle("table", job.asked.sweep.length > 0);
      place.replaceChildren(...(job.asked.sweep.length ? [table(job, tiles)] : tiles));
    }
    const live = place.querySelector('[data-id=""] img');
    if (live && job.previews[0]) { live.src = job.previews[0]; live.hidden = false; }
    for (const one of place.querySelectorAll("button")) one.setAttribute("aria-current", String(one.dataset.id === (current ?? "")));
  }

  tiles(job) {
    const tile = (id, label, src) => make(
      "button", { type: "button", "aria-label": label, data: { id: id ?? "" }, on: { click: () => this.look(id, job) } },
      make("img", { src, alt: "", hidden: !src }),
    );
    const found = job.images.map((id) => tile(id, "Show this picture", pngOf(id)));
    if (isActive(job) && found.length < job.asked.num_images) found.push(tile(null, "Show what is being drawn", job.previews[0]));
    while (found.length < job.asked.num_images) found.push(make("span", { class: "blank" }));
    return found;
  }
}

function table(job, tiles) {
  const [across, down] = job.asked.sweep;
  const head = (axis, value) => make("th", { scope: axis === across ? "col" : "row" }, make("span", { text: `${titleOf(axis.name)} ` }), make("b", { text: value }));
  const rows = (down?.values ?? [null]).map((value, row) => make(
    "tr", {},
    ...(down ? [head(down, value)] : []),
    ...across.values.map((_, column) => make("td", {}, tiles[row * across.values.length + column])),
  ));
  const top = make("tr", {}, ...(down ? [make("td")] : []), ...across.values.map((value) => head(across, value)));
  return make("table", {}, make("thead", {}, top), make("tbody", {}, ...rows));
}
