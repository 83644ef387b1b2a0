// What a job is doing, in words.

const ACTIVE = ["waiting", "running", "stopping"];
export const isActive = (job) => ACTIVE.includes(job.state);
export const isLesson = (job) => ["check", "rehearsal", "training"].includes(job.kind);

export function titleOf(job) {
  if (job.kind === "picture") return job.asked.request.prompt;
  if (job.kind === "words") return `Where the words act: ${job.asked.request.prompt}`;
  return { check: "Looking through", rehearsal: "Rehearsing", training: "Teaching" }[job.kind] + ` “${job.asked.title}”`;
}
