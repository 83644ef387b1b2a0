// The page: one form, one stage, the line, the gallery, all fed by one stream of jobs.

import { Stream, get, post, remove } from "./api.js";
import { byId, sentence, toast } from "./dom.js";
import { acceptPictures } from "./drop.js";
import { Form } from "./form.js";
import { Stage, isActive } from "./stage.js";
import { Queue, Wall } from "./wall.js";

const jobs = new Map();
let form;

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
  job: (id) => jobs.get(id),
  stop: (job) => attempt(async () => onJob(await post(`/v1/jobs/${job.id}/stop`))),
  current: (id) => wall.current(id),
  use: (entry) => takeRecipe(entry.recipe, ""),
  again: (entry) => {
    takeRecipe(entry.recipe, "");
    form.set({ seed: null });
    draw();
  },
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

function pick(id) {
  stage.showImage(id);
  queue.show([...jobs.values()], stage.jobId);
  if (matchMedia("(max-width: 899px)").matches) byId("stage").scrollIntoView({ behavior: "smooth" });
}

function restore(entry) {
  return attempt(async () => {
    await post(`/v1/images/${encodeURIComponent(entry.id)}/restore`);
    wall.add(entry.id, entry.recipe?.request?.prompt);
    stage.showImage(entry.id);
  });
}

function takeRecipe(recipe, name) {
  const lost = form.take(recipe);
  byId("problem").hidden = true;
  if (lost.length) problem(new Error(lost.join(" ")));
  if (name) toast(`the settings of ${name} are back`);
}

function draw() {
  return attempt(async () => {
    const job = await post("/v1/images", form.request());
    jobs.set(job.id, job);
    const watching = stage.jobId !== null && jobs.has(stage.jobId) && isActive(jobs.get(stage.jobId));
    if (!watching) stage.followJob(job);
    if (matchMedia("(max-width: 899px)").matches) byId("stage").scrollIntoView({ behavior: "smooth" });
    onJob(jobs.get(job.id));
  });
}

function onJob(job) {
  const before = jobs.get(job.id);
  if (before && !isActive(before) && isActive(job)) return; // an answer that was overtaken
  jobs.set(job.id, job);
  // What had ended before this page was opened is in the gallery already, or was deleted.
  const fresh = before ? job.images.filter((id) => !before.images.includes(id)) : isActive(job) ? job.images : [];
  for (const id of fresh) wall.add(id, job.asked.request.prompt);
  const watched = jobs.get(stage.jobId);
  const free = watched ? !isActive(watched) && watched.id !== job.id : stage.imageId === null;
  if (free && isActive(job)) stage.followJob(job);
  else stage.showJob(job);
  queue.show([...jobs.values()], stage.jobId);
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  acceptPictures(takeRecipe, problem);
  byId("stage").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && stage.imageId ? wall.beside(stage.imageId, step) : null;
    if (next) stage.showImage(next);
  });
}

async function begin() {
  const [server, models, loras] = await Promise.all([get("/v1/server"), get("/v1/models"), get("/v1/loras")]);
  form = new Form(server, models, loras);
  listen();
  await wall.load();
  new Stream(onJob, (alive) => { byId("offline").hidden = alive; });
  document.documentElement.dataset.ready = "yes";
}

begin().catch(problem);
