// Lessons: the list of them, and the one that is open.

import { get, post, remove } from "./api.js";
import { byId, make, sentence, toast } from "./dom.js";
import { isActive } from "./job.js";
import { LessonPictures } from "./lesson-pictures.js";
import { LessonRun } from "./lesson-run.js";

const LOOK = 2000; // milliseconds between looks at a lesson at work

export class Teach {
  // page: {lessonJob(lesson's id), onJob(job), tryOut(name), refresh()}.
  constructor(models, page) {
    this.page = page;
    this.lesson = null;
    this.list = [];
    this.models = models;
    const tools = { attempt: (work) => this.attempt(work), reload: () => this.reload(), begin: (kind, body) => this.begin(kind, body), ...page };
    this.pictures = new LessonPictures(tools);
    this.run = new LessonRun(tools);
    byId("lesson-model").append(...models.map(({ name }) => make("option", { value: name, text: name })));
    byId("lesson-model-field").hidden = models.length < 2;
    byId("new-lesson").addEventListener("submit", (event) => {
      event.preventDefault();
      this.attempt(() => this.create());
    });
    byId("lesson-remove").addEventListener("click", () => this.attempt(() => this.remove()));
    setInterval(() => this.look(), LOOK);
  }

  async attempt(work) {
    byId("teach-problem").hidden = true;
    try {
      return await work();
    } catch (error) {
      if (this.lesson) {
        byId("teach-problem").textContent = sentence(error.message);
        byId("teach-problem").hidden = false;
      } else toast(error.message);
      return null;
    }
  }

  get shown() {
    return !byId("teach-page").hidden;
  }

  // The tab was opened; id: of the lesson that the address names, if any.
  open(id) {
    return this.attempt(async () => {
      this.list = await get("/v1/lessons");
      const wanted = this.list.find((one) => one.id === (id || this.lesson?.id)) ?? this.list[0] ?? null;
      this.show(wanted);
    });
  }

  show(lesson) {
    const other = lesson?.id !== this.lesson?.id;
    this.lesson = lesson;
    this.showList();
    byId("lesson").hidden = lesson === null;
    byId("no-lesson").hidden = lesson !== null;
    if (!lesson) return;
    byId("lesson-name").textContent = lesson.title;
    this.pictures.show(lesson, other);
    this.run.show(lesson, this.page.lessonJob(lesson.id), other);
  }

  showList() {
    byId("lesson-list").replaceChildren(...this.list.map((one) => make(
      "a", { href: `#teach/${one.id}`, class: "lesson-link", "aria-current": one.id === this.lesson?.id ? "true" : "false" },
      make("b", { text: one.title }), make("span", { class: "soft", text: summary(one) }),
    )));
  }

  async reload() {
    if (!this.lesson) return;
    const fresh = await get(`/v1/lessons/${this.lesson.id}`);
    if (fresh.id !== this.lesson?.id) return;
    this.list = this.list.map((one) => (one.id === fresh.id ? fresh : one));
    this.show(fresh);
  }

  look() {
    if (this.shown && !document.hidden && this.lesson?.job) this.reload().catch(() => null);
  }

  async create() {
    const title = byId("lesson-title");
    const lesson = await post("/v1/lessons", { title: title.value.trim(), model: byId("lesson-model").value || null });
    title.value = "";
    location.hash = `#teach/${lesson.id}`;
  }

  async remove() {
    const { id, title } = this.lesson;
    await remove(`/v1/lessons/${id}`);
    toast(`“${title}” and what it learnt are in the trash`);
    this.lesson = null;
    history.replaceState(null, "", "#teach");
    await this.open("");
    this.page.refresh();
  }

  // kind: check, rehearsal or training.
  async begin(kind, body) {
    const job = await post(`/v1/lessons/${this.lesson.id}/${kind}`, body);
    this.lesson.job = job.id;
    this.page.onJob(job);
  }

  onJob(job) {
    if (job.asked.lesson !== this.lesson?.id) return;
    const ended = !isActive(job);
    this.run.took(job);
    if (ended && this.lesson.job !== null) {
      this.lesson.job = null;
      if (job.kind === "training") this.page.refresh();
      this.attempt(() => this.reload());
    }
    if (!ended) this.lesson.job = job.id;
  }
}

function summary(lesson) {
  const count = lesson.pictures.length;
  const pictures = count === 1 ? "1 picture" : `${count} pictures`;
  if (lesson.job) return `${pictures}, at work`;
  return lesson.run?.learnt ? `${pictures}, learnt` : pictures;
}
