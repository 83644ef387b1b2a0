// The settings: from the form to a request, from a recipe to the form, kept over reloads.

import { byId, make, sentence } from "./dom.js";
import { Source } from "./source.js";
import { Sweep } from "./sweep.js";

const KEEP = "latentdiff.settings";
const TEXTS = ["prompt", "negative_prompt", "scheduler", "long_prompts", "model"];
const NUMBERS = ["seed", "num_inference_steps", "guidance_scale", "width", "height", "guidance_rescale", "eta", "clip_skip"];
const RECORDS = { blend: ["amount", "seed", "prompt"], upscale: ["scale", "strength"] };
const INNER = Object.entries(RECORDS).flatMap(([record, names]) => names.map((name) => `${record}.${name}`));
const FIELDS = [...TEXTS, ...NUMBERS, ...INNER];
const UNASKED = ["schema", "template"]; // of a recipe, not for a form
const DEFAULTS = { guidance_rescale: 0, eta: 0, clip_skip: 0, long_prompts: "truncate", negative_prompt: "", prompt_syntax: "a1111" };

export class Form {
  constructor(server, models, loras, onProblem) {
    this.form = byId("composer");
    this.server = server;
    this.models = models;
    this.known = loras;
    this.loras = new Map();
    this.extra = new Map();
    this.count = 1;
    const own = () => (this.model.width ? this.model : null);
    this.ready = false;
    this.source = new Source(() => this.keep(), own, onProblem);
    this.sweep = new Sweep(() => this.changed());
    this.fillChoices();
    this.listen();
    this.modelChanged();
  }

  // What was set when the page was last open; wait for it before anything is drawn.
  async begin() {
    await this.load();
    this.ready = true;
    this.changed();
  }

  fillChoices() {
    const of = (values) => values.map((value) => make("option", { value, text: value }));
    this.form.elements.scheduler.append(...of(this.server.schedulers.filter((name) => name !== "ddim-inverse")));
    this.form.elements.model.append(...of(this.models.map((model) => model.name)));
    byId("model-field").hidden = this.models.length < 2;
    this.offerLoras(this.known);
    document.querySelector('[data-for="steps"]').max = this.server.limits.max_steps;
  }

  // The LoRAs to choose from; new ones may come while the page is open.
  offerLoras(known) {
    this.known = known;
    byId("lora-field").hidden = known.length === 0;
    const options = known.map((lora) => make("option", { value: lora.name, text: lora.name }));
    byId("lora-add").replaceChildren(byId("lora-add").options[0], ...options);
  }

  changed() {
    this.showSliders();
    byId("draw").textContent = this.sweep.count > 1 ? `Draw ${this.sweep.count}` : "Draw";
    this.keep();
  }

  listen() {
    this.form.addEventListener("input", (event) => {
      const input = event.target;
      if (input.dataset.for) byId(input.dataset.for).value = input.value;
      if (input.name === "model") this.modelChanged();
      this.changed();
    });
    for (const button of this.form.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.setCount(this.count + Number(button.dataset.step)));
    }
    byId("new-seed").addEventListener("click", () => this.set({ seed: null }));
    byId("reset").addEventListener("click", () => this.reset());
    byId("lora-add").addEventListener("change", (event) => {
      if (event.target.value) this.addLora(event.target.value, 1);
      event.target.value = "";
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        this.form.requestSubmit();
      }
    });
  }

  get model() {
    return this.models.find((model) => model.name === this.form.elements.model.value) ?? this.models[0];
  }

  // A picture's size, for drawing over it; the model's own is left to the model.
  sizeOf({ width, height }) {
    const { model } = this;
    const fits = width % model.multiple === 0 && height % model.multiple === 0;
    const other = width !== model.width || height !== model.height;
    return fits && other ? { width, height } : { width: null, height: null };
  }

  modelChanged() {
    const own = this.model;
    const { elements } = this.form;
    elements.num_inference_steps.placeholder = own.steps ?? 50;
    elements.guidance_scale.placeholder = own.guidance_scale ?? 7.5;
    elements.width.placeholder = own.width ?? "";
    elements.height.placeholder = own.height ?? "";
    for (const name of ["width", "height"]) elements[name].step = own.multiple;
    this.showSliders();
    this.showIdeas();
  }

  showSliders() {
    for (const slider of this.form.querySelectorAll("[data-for]")) {
      const number = byId(slider.dataset.for);
      slider.value = number.value === "" ? number.placeholder : number.value;
    }
  }

  showIdeas() {
    const { subjects, settings } = this.model;
    const pick = (list) => list[Math.floor(Math.random() * list.length)];
    const idea = () => {
      const subject = pick(subjects);
      return `${/^[aeiou]/.test(subject) ? "an" : "a"} ${subject} ${pick(settings)}`;
    };
    const chip = (text) => make("button", { type: "button", text, on: { click: () => this.set({ prompt: text }) } });
    const place = byId("ideas");
    place.replaceChildren();
    if (!subjects.length || !settings.length) return;
    place.append(chip(idea()), chip(idea()), make("button", { type: "button", text: "other ideas", on: { click: () => this.showIdeas() } }));
  }

  setCount(value) {
    this.count = Math.min(Math.max(1, value), this.server.limits.max_images);
    byId("count").value = this.count;
    this.keep();
  }

  addLora(name, scale) {
    this.loras.set(name, scale);
    const lora = this.known.find((entry) => entry.name === name);
    const prompt = this.form.elements.prompt;
    if (lora?.words.length && !lora.words.some((word) => prompt.value.includes(word))) {
      prompt.value = lora.prompt || `${prompt.value} ${lora.words[0]}`.trim();
    }
    this.showLoras();
    this.keep();
  }

  showLoras() {
    byId("loras").replaceChildren(...[...this.loras].map(([name, scale]) => {
      const shown = make("output", { text: Number(scale).toFixed(2) });
      const slider = make("input", { type: "range", min: -1, max: 2, step: 0.05, "aria-label": `How strongly to apply ${name}` });
      slider.value = scale;
      slider.addEventListener("input", () => { this.loras.set(name, Number(slider.value)); shown.value = Number(slider.value).toFixed(2); });
      const away = make("button", { type: "button", class: "cross", text: "×", "aria-label": `Leave out ${name}`, on: { click: () => { this.loras.delete(name); this.showLoras(); this.keep(); } } });
      return make("div", { class: "lora" }, make("b", { text: name, title: name }), slider, shown, away);
    }));
  }

  // What a picture's recipe asks for and the form has no field for; it can be left out.
  showExtra() {
    byId("extra").replaceChildren(...[...this.extra].map(([name, value]) => make("button", {
      type: "button", text: `${name.replaceAll("_", " ")}: ${value} ×`, title: "Leave it out",
      on: { click: () => { this.extra.delete(name); this.showExtra(); } },
    })));
  }

  // The records that the form has fields of, where they have an effect.
  addRecords(found) {
    for (const [record, names] of Object.entries(RECORDS)) {
      const values = {};
      for (const name of names) {
        const { value } = this.form.elements[`${record}.${name}`];
        if (value !== "") values[name] = name === "prompt" ? value : Number(value);
      }
      if (record === "blend" && values.amount && values.seed === undefined && !values.prompt) values.seed = Math.floor(Math.random() * 2 ** 31);
      const swept = record === "blend" && found.sweep.some((text) => text.startsWith("variation_"));
      if (swept) values.seed ??= Math.floor(Math.random() * 2 ** 31);
      if (record === "blend" ? values.amount || swept : values.scale > 1) found[record] = values;
    }
  }

  // What POST /v1/images takes, but for the picture to start from; empty fields are the model's.
  request() {
    const { elements } = this.form;
    const found = { ...Object.fromEntries(this.extra), sweep: this.sweep.request() };
    found.num_images = found.sweep.length ? 1 : this.count;
    for (const name of TEXTS) if (elements[name].value !== "") found[name] = elements[name].value;
    for (const name of NUMBERS) {
      const text = elements[name].value;
      if (text !== "" || elements[name].validity.badInput) found[name] = text === "" ? NaN : Number(text);
      if (Number.isNaN(found[name])) throw new Error(`${elements[name].ariaLabel ?? name} is not a number`);
    }
    this.addRecords(found);
    found.loras = [...this.loras].map(([name, scale]) => ({ name, scale }));
    if (!(found.prompt ?? "").trim()) throw new Error("there is no prompt yet: write what you would like to see");
    return found;
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.form.elements[name];
      if (!field) continue;
      const plain = value === null || value === undefined || DEFAULTS[name] === value ? "" : String(value);
      if (field.tagName === "SELECT" && plain && ![...field.options].some((option) => option.value === plain)) {
        field.append(make("option", { value: plain, text: plain.replace(/Scheduler$/, "") }));
      }
      field.value = plain;
    }
    this.modelChanged();
    this.keep();
  }

  reset() {
    const prompt = this.form.elements.prompt.value;
    this.loras.clear();
    this.extra.clear();
    this.showLoras();
    this.showExtra();
    this.source.clear();
    this.source.show();
    this.sweep.set(null);
    this.set(Object.fromEntries(FIELDS.map((name) => [name, null])));
    this.set({ prompt, model: this.models[0].name });
    this.setCount(1);
  }

  // A picture's settings; returns what could not be taken over, a sentence each.
  async take(recipe) {
    const values = Object.fromEntries(INNER.map((name) => [name, null]));
    for (const [record, names] of Object.entries(RECORDS)) {
      for (const name of names) values[`${record}.${name}`] = recipe.request[record]?.[name] ?? null;
    }
    Object.assign(values, recipe.request);
    const lost = await this.source.restore(recipe.request.source);
    this.sweep.set(null);
    const model = String(recipe.model).split("/").pop();
    if (this.models.some((known) => known.name === model)) values.model = model;
    else if (recipe.model) lost.push(sentence(`its model ${recipe.model} is not here`));
    this.loras.clear();
    for (const lora of recipe.loras ?? []) {
      const parts = String(lora.file).split("/");
      const names = [parts.at(-1).replace(/\.safetensors$/, ""), parts.at(-2)];
      const known = this.known.find((entry) => names.includes(entry.name));
      if (known) this.loras.set(known.name, lora.scale);
      else lost.push(sentence(`its LoRA ${names[0]} is not here`));
    }
    this.extra = new Map();
    for (const [name, value] of Object.entries(recipe.request)) {
      const asks = Array.isArray(value) ? value.length : value !== DEFAULTS[name] && value;
      if (!asks || UNASKED.includes(name) || name === "source" || name in RECORDS || this.form.elements[name]) continue;
      if (this.server.fields.includes(name)) this.extra.set(name, value);
      else lost.push(sentence(`its ${name.replaceAll("_", " ")} cannot be set here`));
    }
    this.showExtra();
    this.showLoras();
    this.set(values);
    this.setCount(1);
    return lost;
  }

  keep() {
    if (!this.ready) return;
    const { elements } = this.form;
    const kept = { count: this.count, loras: [...this.loras], open: byId("settings").open };
    Object.assign(kept, { source: this.source.kept, sweep: this.sweep.kept });
    for (const name of FIELDS) kept[name] = elements[name].value;
    try { localStorage.setItem(KEEP, JSON.stringify(kept)); } catch { /* private windows may refuse */ }
  }

  async load() {
    let kept = {};
    try { kept = JSON.parse(localStorage.getItem(KEEP) ?? "{}"); } catch { /* as new */ }
    for (const name of FIELDS) if (kept[name]) this.form.elements[name].value = kept[name];
    if (!this.form.elements.model.value) this.form.elements.model.value = this.models[0].name;
    for (const [name, scale] of kept.loras ?? []) if (this.known.some((lora) => lora.name === name)) this.loras.set(name, scale);
    this.showLoras();
    byId("settings").open = kept.open ?? matchMedia("(min-width: 900px)").matches;
    byId("settings").addEventListener("toggle", () => this.keep());
    this.setCount(kept.count ?? 1);
    this.sweep.set(kept.sweep);
    await this.source.restore(kept.source);
  }
}
