// Calls of the JSON API. Every refusal is an Error whose message is one sentence.

export async function call(method, path, body, kind = "application/json") {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = kind;
    options.body = kind === "application/json" ? JSON.stringify(body) : body;
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is `latentdiff web` still running?");
  }
  if (answer.status === 401 && path !== "/v1/login") location.assign("/login");
  if (answer.status === 204) return null;
  let value = null;
  try {
    value = await answer.json();
  } catch {
    if (answer.ok) throw new Error("the server's answer could not be read");
  }
  if (!answer.ok) throw new Error(value?.error ?? `the server answered ${answer.status}`);
  return value;
}

export const get = (path) => call("GET", path);
export const post = (path, body, kind) => call("POST", path, body, kind);
export const remove = (path) => call("DELETE", path);
export const pngOf = (id) => `/v1/images/${encodeURIComponent(id)}/png`;

// The owner's jobs, each time one changes. It comes back by itself after sleep, a lost network or
// a new start of the server; the server then sends every job again.
export class Stream {
  constructor(onJob, onState) {
    this.onJob = onJob;
    this.onState = onState;
    this.hiddenSince = null;
    this.open();
    document.addEventListener("visibilitychange", () => this.seen());
    addEventListener("pageshow", (event) => event.persisted && this.open());
    addEventListener("pagehide", () => {
      this.source.close();
      navigator.sendBeacon("/v1/leave");
    });
  }

  open() {
    this.source?.close();
    this.source = new EventSource("/v1/events");
    this.source.addEventListener("open", () => this.onState(true));
    this.source.addEventListener("error", () => {
      this.onState(false);
      if (this.source.readyState === EventSource.CLOSED) setTimeout(() => this.open(), 2000);
    });
    this.source.addEventListener("job", (event) => this.onJob(JSON.parse(event.data)));
  }

  seen() {
    if (document.hidden) this.hiddenSince = Date.now();
    else if (this.hiddenSince !== null && Date.now() - this.hiddenSince > 20000) this.open();
  }
}
