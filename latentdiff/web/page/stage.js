// The large picture: a job while it is drawn, or one picture of the gallery.

import { get, pngOf } from "./api.js";
import { byId, make, seconds, sentence } from "./dom.js";
import { isActive } from "./job.js";
import { Strip } from "./strip.js";
import { Words } from "./words.js";

export class Stage {
  constructor(actions) {
    this.actions = actions;
    this.jobId = null;
    this.imageId = null;
    this.words = new Words(actions.attempt, actions.onJob);
    this.strip = new Strip((id, job) => {
      this.imageId = id;
      if (id) this.showImage(id, job);
      else this.showJob(this.actions.job(job.id));
    });
  }

  followJob(job) {
    this.jobId = job.id;
    this.imageId = null;
    this.actions.current(null);
    byId("picture").hidden = byId("backdrop").hidden = byId("empty").hidden = true;
    this.showJob(job);
  }

  // A job's news; only the one on stage is shown here.
  showJob(job) {
    if (job.id !== this.jobId) return;
    this.strip.show(job, this.imageId);
    if (this.imageId !== null) return;
    if (job.state === "done" && job.images.length) {
      this.showImage(job.images.at(-1), job);
      return;
    }
    byId("caption").hidden = false;
    this.words.plain(job.asked.request.prompt);
    byId("facts").replaceChildren();
    this.showNotes(job.notes);
    this.showState(job);
    const preview = job.previews[0] ?? (job.images.length && !isActive(job) ? pngOf(job.images.at(-1)) : null);
    if (preview) this.showPicture(preview, job.asked.request.prompt, isActive(job));
    const bar = byId("progress");
    bar.hidden = !isActive(job);
    bar.firstElementChild.style.width = `${100 * job.progress}%`;
    bar.setAttribute("aria-valuenow", Math.round(100 * job.progress));
    this.showButtons(isActive(job) ? `stop ${job.id}` : "", () => [this.button("Stop", () => this.actions.stop(job), "danger")]);
  }

  // A button that is made anew at every step would swallow clicks: it is kept while its key is.
  showButtons(key, build) {
    const place = byId("buttons");
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    place.replaceChildren(...(key ? build() : []));
  }

  showState(job) {
    const state = byId("state");
    state.classList.toggle("bad", job.state === "failed");
    const which = job.asked.num_images > 1 && job.picture ? `picture ${job.picture} of ${job.asked.num_images}, ` : "";
    state.textContent = {
      waiting: job.ahead === 1 ? "Next in line" : `${job.ahead} before it in line`,
      running: job.stage === "drawing" ? `${which}step ${job.step} of ${job.steps} · ${seconds(job.seconds_left)}`.replace(/ · $/, "") : sentence(job.stage || "starting"),
      stopping: "Stopping …",
      stopped: "Stopped.",
      failed: sentence(job.error ?? ""),
      done: "",
    }[job.state].replace(/^\w/, (letter) => letter.toUpperCase());
  }

  showNotes(notes) {
    byId("notes").replaceChildren(...notes.map((note) => make("li", { text: sentence(note) })));
  }

  async showImage(id, job = null) {
    this.imageId = id;
    if (job) this.strip.show(job, id);
    else { this.jobId = null; this.strip.hide(); }
    let entry;
    try {
      entry = await get(`/v1/images/${encodeURIComponent(id)}`);
    } catch (error) {
      this.actions.problem(error);
      return;
    }
    if (this.imageId !== id) return;
    const request = entry.recipe?.request;
    this.showPicture(pngOf(id), request?.prompt ?? "a picture", false);
    byId("progress").hidden = true;
    byId("caption").hidden = false;
    if (!request) this.words.plain("A picture without a recipe");
    else if (entry.pictures > 1) this.words.plain(request.prompt);
    else this.words.show(entry);
    const state = byId("state");
    state.textContent = "";
    state.classList.remove("bad");
    this.showNotes(job?.notes ?? []);
    byId("facts").replaceChildren(...(entry.recipe ? facts(entry) : []));
    const grid = job?.grid ? [this.button("The grid as one picture", () => this.showImage(job.grid, job))] : [];
    this.showButtons(`image ${id}`, () => [...this.imageButtons(entry), ...grid]);
    this.actions.current(id);
  }

  imageButtons(entry) {
    const link = make("a", { class: "small", href: pngOf(entry.id), download: `${entry.id}.png`, text: "Download" });
    const away = this.button("Delete", () => this.actions.remove(entry), "danger");
    const from = this.button("Start from it", () => this.actions.startFrom(entry));
    if (!entry.recipe) return [from, link, away];
    const use = this.button("Use its settings", () => this.actions.use(entry));
    if (entry.pictures > 1) return [use, link, away];
    return [
      this.button("Another like this", () => this.actions.again(entry)),
      this.button("Vary", () => this.actions.vary(entry)),
      this.button("Repaint", () => this.actions.repaint(entry)),
      from,
      use,
      link,
      away,
    ];
  }

  showPicture(source, alt, live) {
    const picture = byId("picture");
    picture.src = source;
    picture.alt = alt;
    picture.classList.toggle("live", live);
    byId("backdrop").src = source;
    picture.hidden = byId("backdrop").hidden = false;
    byId("empty").hidden = byId("heat").hidden = true;
  }

  clear() {
    this.imageId = this.jobId = null;
    for (const id of ["picture", "backdrop", "heat", "caption", "progress", "strip"]) byId(id).hidden = true;
    byId("empty").hidden = false;
  }

  button(text, run, kind = "") {
    return make("button", { type: "button", class: `small ${kind}`.trim(), text, on: { click: run } });
  }
}

function facts(entry) {
  const { request, model, loras } = entry.recipe;
  const { blend, source, upscale } = request;
  const named = String(model).split("/").pop();
  const grid = [["Pictures", entry.pictures], ["Size", `${entry.width} × ${entry.height}`], ["Model", named]];
  const rows = entry.pictures > 1 ? grid : [
    ["Seed", request.seed],
    ["Variation", blend?.seed == null ? "" : `${blend.amount} towards seed ${blend.seed}`],
    ["From a picture", source ? `${source.inpaint ? "in part, " : ""}change ${source.strength}` : ""],
    ["Enlarged", upscale ? `${upscale.scale} times` : ""],
    ["Size", `${entry.width} × ${entry.height}`],
    ["Steps", request.num_inference_steps],
    ["Guidance", request.guidance_scale],
    ["Sampler", String(request.scheduler ?? "").replace(/(Discrete|Multistep)?Scheduler$/, "")],
    ["Avoid", request.negative_prompt],
    ["Model", named],
    ["LoRAs", (loras ?? []).map((lora) => `${String(lora.file).split("/").pop().replace(/\.safetensors$/, "")} ${lora.scale}`).join(", ")],
  ];
  return rows
    .filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: String(value) })));
}
