// The training of a lesson: how long, how it goes, what it draws by now.

import { post } from "./api.js";
import { drawCurves } from "./curve.js";
import { byId, make, seconds, sentence } from "./dom.js";
import { isActive } from "./job.js";

const ENDED = {
  finished: "It has learnt all its updates.",
  time: "Its time was up.",
  interrupted: "It was stopped; what it had learnt is kept.",
  paused: "It was stopped; what it had learnt is kept.",
};

export class LessonRun {
  constructor(tools) {
    this.tools = tools;
    this.form = byId("teaching");
    this.lesson = null;
    this.job = null;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin("training");
    });
    this.form.addEventListener("input", (event) => {
      if (event.target.dataset.for) byId(event.target.dataset.for).value = event.target.value;
      else this.slide();
    });
    byId("sheet-slider").addEventListener("input", () => this.showSheet());
    this.slide();
  }

  slide() {
    this.form.querySelector('[data-for="minutes"]').value = byId("minutes").value || 1;
  }

  // What the API takes; empty fields are left to the model.
  settings() {
    const found = { minutes: null, trigger_words: this.form.elements.trigger_words.value };
    for (const name of ["minutes", "steps", "learning_rate", "batch_size", "rank"]) {
      const { value } = this.form.elements[name];
      if (value !== "") found[name] = Number(value);
    }
    return found;
  }

  begin(kind, more = {}) {
    return this.tools.attempt(() => this.tools.begin(kind, { ...this.settings(), ...more }));
  }

  show(lesson, job, other) {
    this.lesson = lesson;
    if (other) {
      this.job = null;
      byId("teach-notes").replaceChildren();
    }
    if (job && job.asked.lesson === lesson.id) this.took(job);
    else this.showState();
    const { run } = lesson;
    byId("curve").hidden = !run || !Object.values(run.curves).some((points) => points.length > 1);
    if (!byId("curve").hidden) drawCurves(byId("curve"), run.curves);
    byId("sheet").hidden = !run?.sheets.length;
    if (run?.sheets.length) this.sheets(run.sheets, other);
  }

  took(job) {
    this.job = job;
    if (this.lesson?.id === job.asked.lesson) this.showState();
  }

  showState() {
    const { job, lesson } = this;
    const active = job !== null && isActive(job);
    byId("teach-progress").hidden = !active && !lesson.run && !job;
    byId("teach-bar").hidden = !active;
    const share = active ? job.progress : 0;
    byId("teach-bar").firstElementChild.style.width = `${100 * share}%`;
    byId("teach-bar").setAttribute("aria-valuenow", Math.round(100 * share));
    const state = byId("teach-state");
    state.textContent = this.told(active);
    state.classList.toggle("bad", !active && (job?.state === "failed" || Boolean(lesson.run?.trouble)));
    if (job?.kind === "rehearsal") byId("teach-notes").replaceChildren(...job.notes.map((text) => make("li", { text })));
    else if (job?.kind === "training") byId("teach-notes").replaceChildren();
    this.buttons(active);
  }

  told(active) {
    const { job } = this;
    const { run } = this.lesson;
    if (active && job.state === "waiting") return job.ahead === 1 ? "Next in line: one lesson is taught at a time." : `${job.ahead} before it in line.`;
    if (active && job.state === "stopping") return "Stopping: it saves what it has learnt …";
    if (active) {
      const steps = job.step ? `update ${job.step}${job.steps ? ` of ${job.steps}` : ""}` : "";
      return sentence([job.stage || "starting", steps, seconds(job.seconds_left)].filter(Boolean).join(" · ")).replace(/\.$/, "");
    }
    if (job?.state === "failed") return sentence(job.error ?? "");
    if (job?.kind === "rehearsal" && job.state === "done") return "The rehearsal went well. The whole will take:";
    if (run?.trouble) return sentence(run.trouble);
    if (!run) return "";
    const minutes = run.minutes === null ? "" : ` in ${run.minutes.toFixed(1)} minutes`;
    return `${ENDED[run.ended] ?? "It was broken off."} ${run.step} updates${minutes}.`;
  }

  // Buttons are kept while their kind is: one that is made anew at every update swallows clicks.
  buttons(active) {
    const { run, pictures } = this.lesson;
    const key = [this.lesson.id, active ? this.job.id : "", run?.resumable, run?.learnt, pictures.length > 0].join(" ");
    const place = byId("teaching-buttons");
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const button = (text, run_, kind = "small", more = {}) => make("button", { type: "button", class: kind, text, on: { click: run_ }, ...more });
    if (active) {
      const stop = button("Stop", () => this.tools.attempt(async () => this.tools.onJob(await post(`/v1/jobs/${this.job.id}/stop`))), "small danger");
      place.replaceChildren(stop);
      return;
    }
    const none = pictures.length === 0;
    place.replaceChildren(
      make("button", { type: "submit", class: run ? "small" : "primary", text: run ? "Teach anew" : "Teach", disabled: none }),
      ...(run?.learnt ? [button("Try it", () => this.tools.tryOut(this.lesson.id), "primary")] : []),
      ...(run?.resumable ? [button("Go on", () => this.begin("training", { resume: true }))] : []),
      button("Rehearse", () => this.begin("rehearsal"), "small", { disabled: none, title: "All parts of the training once, in a minute or two: says how long the whole will take" }),
    );
  }

  sheets(steps, other) {
    const slider = byId("sheet-slider");
    const last = other || Number(slider.value) === Number(slider.max);
    this.steps = steps;
    slider.max = steps.length - 1;
    if (last) slider.value = steps.length - 1;
    slider.hidden = steps.length < 2;
    this.showSheet();
  }

  showSheet() {
    const step = this.steps[Number(byId("sheet-slider").value)];
    const source = `/v1/lessons/${this.lesson.id}/sheets/${step}?run=${this.lesson.run.began}`;
    const picture = byId("sheet-picture");
    if (picture.getAttribute("src") !== source) picture.src = source;
    picture.alt = `Sample pictures after ${step} updates`;
    byId("sheet-label").textContent = step === 0 ? "before" : `after ${step}`;
  }
}
