// The page: one form, one stage, the line, the gallery, the lessons, all fed by one stream of jobs.

import { Stream, get, post, remove } from "./api.js";
import { byId, sentence, toast } from "./dom.js";
import { acceptPictures } from "./drop.js";
import { Form } from "./form.js";
import { isActive } from "./job.js";
import { Stage } from "./stage.js";
import { Teach } from "./teach.js";
import { Queue, Wall } from "./wall.js";

const jobs = new Map();
const NARROW = matchMedia("(max-width: 899px)");
const VARIATION = 0.25;
let form;
let teach;

function problem(error) {
  const place = byId("problem");
  place.textContent = sentence(error.message);
  place.hidden = false;
}

async function attempt(work) {
  byId("problem").hidden = true;
  try {
    return await work();
  } catch (error) {
    problem(error);
    return null;
  }
}

const actions = {
  problem,
  attempt,
  onJob: (job) => onJob(job),
  job: (id) => jobs.get(id),
  stop: (job) => attempt(async () => onJob(await post(`/v1/jobs/${job.id}/stop`))),
  current: (id) => wall.current(id),
  use: (entry) => takeRecipe(entry.recipe, ""),
  again: async (entry) => {
    await takeRecipe(entry.recipe, "");
    form.set({ seed: null });
    draw();
  },
  vary: async (entry) => {
    const amount = form.form.elements["blend.amount"].value || VARIATION;
    await takeRecipe(entry.recipe, "");
    form.set({ "blend.amount": amount, "blend.seed": null });
    draw();
  },
  startFrom: (entry) => startFrom(entry),
  repaint: (entry) => startFrom(entry, () => form.source.paint()),
  remove: (entry) => attempt(async () => {
    const next = wall.beside(entry.id, 1) ?? wall.beside(entry.id, -1);
    await remove(`/v1/images/${encodeURIComponent(entry.id)}`);
    wall.remove(entry.id);
    if (next) stage.showImage(next);
    else stage.clear();
    toast("The picture is in the trash", { text: "Undo", run: () => restore(entry) });
  }),
};
const stage = new Stage(actions);
const wall = new Wall(pick);
const queue = new Queue(actions.stop, pick);

function lookAt(id) {
  if (NARROW.matches) byId(id).scrollIntoView({ behavior: "smooth" });
}

function pick(id) {
  stage.showImage(id);
  queue.show([...jobs.values()], stage.jobId);
  lookAt("stage");
}

function restore(entry) {
  return attempt(async () => {
    await post(`/v1/images/${encodeURIComponent(entry.id)}/restore`);
    wall.add(entry.id, entry.recipe?.request?.prompt);
    stage.showImage(entry.id);
  });
}

async function takeRecipe(recipe, name) {
  byId("problem").hidden = true;
  const lost = await form.take(recipe);
  if (lost.length) problem(new Error(lost.join(" ")));
  if (name) toast(`the settings of ${name} are back`);
}

// A picture of the gallery becomes the one to start from; its settings come along.
function startFrom(entry, then = () => null) {
  return attempt(async () => {
    if (entry.recipe) await takeRecipe(entry.recipe, "");
    form.set({ seed: null, ...form.sizeOf(entry), "blend.amount": null, "blend.seed": null, "upscale.scale": null });
    await form.source.start(entry);
    await then();
    lookAt("composer");
    byId("prompt").focus({ preventScroll: true });
  });
}

function takePicture(file) {
  return form.source.take(file).then(() => toast(`${file.name} is the picture to start from`));
}

// The server forgets uploads that were not drawn from: it then gets them once more.
async function send(again = false) {
  const body = form.request();
  body.source = await form.source.request(again);
  if (body.source?.inpaint?.only_masked) body.width = body.height = null; // the model’s size
  try {
    return await post("/v1/images", body);
  } catch (error) {
    if (again || !/not here any more/.test(error.message)) throw error;
    return send(true);
  }
}

function draw() {
  return attempt(async () => {
    const job = await send();
    jobs.set(job.id, job);
    const watching = stage.jobId !== null && jobs.has(stage.jobId) && isActive(jobs.get(stage.jobId));
    if (!watching) stage.followJob(job);
    lookAt("stage");
    onJob(jobs.get(job.id));
  });
}

function onJob(job) {
  const before = jobs.get(job.id);
  if (before && !isActive(before) && isActive(job)) return; // an answer that was overtaken
  jobs.set(job.id, job);
  if (job.kind === "picture") onPicture(job, before);
  else if (job.kind === "words") stage.words.took(job);
  else teach.onJob(job);
  queue.show([...jobs.values()], stage.jobId);
}

function onPicture(job, before) {
  // What had ended before this page was opened is in the gallery already, or was deleted.
  const all = [...job.images, ...(job.grid ? [job.grid] : [])];
  const old = before ? [...before.images, before.grid] : isActive(job) ? [] : all;
  for (const id of all) if (!old.includes(id)) wall.add(id, job.asked.request.prompt);
  const watched = jobs.get(stage.jobId);
  const free = watched ? !isActive(watched) && watched.id !== job.id : stage.imageId === null;
  if (free && isActive(job)) stage.followJob(job);
  else stage.showJob(job);
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  acceptPictures(takeRecipe, takePicture, problem);
  byId("stage").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && stage.imageId ? wall.beside(stage.imageId, step) : null;
    if (next) stage.showImage(next);
  });
  addEventListener("hashchange", turn);
  addEventListener("focus", refresh);
}

// The part of the page that the address names.
function turn() {
  const teaching = location.hash.startsWith("#teach");
  byId("draw-page").hidden = teaching;
  byId("teach-page").hidden = !teaching;
  for (const [id, on] of [["tab-draw", !teaching], ["tab-teach", teaching]]) {
    if (on) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  if (teaching) teach.open(location.hash.slice("#teach/".length));
}

function lessonJob(id) {
  return [...jobs.values()].filter((job) => job.asked.lesson === id).at(-1) ?? null;
}

// LoRAs that came into their folder, or were taught, since the page was opened.
async function refresh() {
  form.offerLoras(await get("/v1/loras").catch(() => form.known));
}

// A LoRA that was just taught: into the form, with a prompt that shows it.
async function tryOut(name) {
  await refresh();
  location.hash = "#draw";
  form.set({ prompt: "" });
  form.addLora(name, 1);
  byId("settings").open = true;
  byId("prompt").focus();
}

async function begin() {
  const [server, models, loras] = await Promise.all([get("/v1/server"), get("/v1/models"), get("/v1/loras")]);
  form = new Form(server, models, loras, problem);
  teach = new Teach(models, { lessonJob, onJob, tryOut, refresh });
  await form.begin();
  listen();
  turn();
  await wall.load();
  new Stream(onJob, (alive) => { byId("offline").hidden = alive; });
  document.documentElement.dataset.ready = "yes";
}

begin().catch(problem);
