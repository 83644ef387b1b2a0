// The pictures of a lesson and their captions: dropped, chosen, written, looked through.

import { call, post, remove } from "./api.js";
import { byId, make, sentence } from "./dom.js";

const TEXT = /\.(txt|caption)$/i;
const stem = (name) => name.replace(/\.[^.]*$/, "");

export class LessonPictures {
  constructor(tools) {
    this.tools = tools;
    this.lesson = null;
    this.tiles = new Map();
    this.listen();
  }

  listen() {
    const place = byId("teach-page");
    place.addEventListener("dragover", (event) => event.preventDefault());
    place.addEventListener("dragenter", () => byId("drop-here").classList.add("over"));
    place.addEventListener("dragleave", (event) => { if (!place.contains(event.relatedTarget)) byId("drop-here").classList.remove("over"); });
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      byId("drop-here").classList.remove("over");
      this.add([...event.dataTransfer.files]);
    });
    byId("lesson-add").addEventListener("click", () => byId("lesson-files").click());
    byId("lesson-files").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = "";
    });
    byId("lesson-check").addEventListener("click", () => this.tools.attempt(() => this.tools.begin("check")));
  }

  // Files one after the other, each with the caption of the text file that has its name.
  add(files) {
    if (!this.lesson || !files.length) return null;
    const { id } = this.lesson;
    return this.tools.attempt(async () => {
      const texts = new Map();
      for (const file of files.filter((one) => TEXT.test(one.name))) texts.set(stem(file.name), (await file.text()).trim());
      const pictures = files.filter((one) => !TEXT.test(one.name)).sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
      const refused = [];
      for (const [k, file] of pictures.entries()) {
        byId("lesson-count").textContent = `Sending picture ${k + 1} of ${pictures.length} …`;
        const caption = texts.get(stem(file.name)) ?? "";
        try {
          await call("POST", `/v1/lessons/${id}/pictures?caption=${encodeURIComponent(caption)}`, file, file.type || "image/png");
        } catch (error) {
          refused.push(`${file.name}, ${error.message}`);
        }
      }
      await this.tools.reload();
      if (refused.length) throw new Error(`not taken: ${refused.slice(0, 3).join("; ")}`);
    });
  }

  show(lesson, other) {
    this.lesson = lesson;
    if (other) this.tiles.clear();
    const wanted = new Set(lesson.pictures.map((one) => one.name));
    for (const [name, tile] of this.tiles) if (!wanted.has(name)) { tile.remove(); this.tiles.delete(name); }
    const wall = byId("lesson-wall");
    if (other) wall.replaceChildren();
    for (const picture of lesson.pictures) {
      if (!this.tiles.has(picture.name)) {
        const tile = this.tile(lesson.id, picture);
        this.tiles.set(picture.name, tile);
        wall.append(tile);
      }
      this.mark(this.tiles.get(picture.name), picture);
    }
    byId("lesson-count").textContent = counted(lesson);
    byId("lesson-check").disabled = lesson.pictures.length === 0 || lesson.job !== null;
    byId("lesson-remove").disabled = lesson.job !== null;
    byId("lesson-said").replaceChildren(...(lesson.check?.said ?? []).map((text) => make("li", { text: sentence(text) })));
  }

  tile(id, picture) {
    const at = `/v1/lessons/${id}/pictures/${picture.name}`;
    const caption = make("textarea", {
      rows: 2, placeholder: "What does it show?", "aria-label": `Caption of picture ${Number(stem(picture.name))}`,
      on: { change: () => this.tools.attempt(async () => { await post(at, { caption: caption.value }); await this.tools.reload(); }) },
    });
    caption.value = picture.caption;
    const away = make("button", {
      type: "button", class: "cross", text: "×", "aria-label": `Take picture ${Number(stem(picture.name))} out`,
      on: { click: () => this.tools.attempt(async () => { await remove(at); await this.tools.reload(); }) },
    });
    const image = make("img", { src: at, alt: "", loading: "lazy", decoding: "async" });
    return make("div", { class: "lesson-tile" }, make("div", { class: "lesson-image" }, image, away), caption, make("p", { class: "why", hidden: true }));
  }

  mark(tile, picture) {
    const why = tile.querySelector(".why");
    const text = picture.left_out ?? picture.noted[0] ?? "";
    why.hidden = text === "";
    why.textContent = text && sentence(picture.left_out ? `left out: ${text}` : text);
    tile.classList.toggle("left-out", picture.left_out !== null);
  }
}

function counted(lesson) {
  const { length } = lesson.pictures;
  if (!length) return "Ten to fifty pictures of one thing, each with a caption, are a good beginning.";
  const all = length === 1 ? "1 picture" : `${length} pictures`;
  const blank = lesson.pictures.filter((one) => !one.caption).length;
  if (lesson.check) return `${all}, ${lesson.check.usable} to learn from.`;
  return blank ? `${all}, ${blank} without a caption.` : `${all}, not looked through yet.`;
}
