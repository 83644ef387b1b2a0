// The picture to start from: as a whole, a painted part of it, or more around it.

import { call, pngOf } from "./api.js";
import { byId } from "./dom.js";
import { Painter } from "./paint.js";

const UPLOAD = /^[0-9a-f]{64}$/;
const MASKED = "#3f7bff";
export const addressOf = (id) => (UPLOAD.test(id) ? `/v1/uploads/${id}` : pngOf(id));

function loaded(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.addEventListener("load", () => resolve(image));
    image.addEventListener("error", () => reject(new Error("this picture cannot be shown")));
    image.src = url;
  });
}

const blobOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

export class Source {
  // onChange: after every change; ownSize: gives the model's {width, height}.
  constructor(onChange, ownSize, onProblem) {
    this.onChange = onChange;
    this.ownSize = ownSize;
    this.attempt = (work) => work().catch(onProblem);
    this.painter = new Painter();
    this.clear();
    this.listen();
  }

  listen() {
    byId("source-open").addEventListener("click", () => byId("source-file").click());
    byId("source-file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) this.attempt(() => this.take(file));
      event.target.value = "";
    });
    byId("source-paint").addEventListener("click", () => this.attempt(() => this.paint()));
    byId("source-unpaint").addEventListener("click", () => { this.mask = null; this.show(); });
    byId("source-remove").addEventListener("click", () => { this.clear(); this.show(); });
    byId("source").addEventListener("input", () => this.show());
  }

  clear() {
    this.picture = this.mask = null;
    for (const field of this.sides) field.value = "";
    byId("strength").value = "";
    byId("resize").value = "fill";
    byId("only-masked").checked = false;
  }

  get sides() {
    return [...document.querySelectorAll("[data-side]")];
  }

  get expand() {
    return this.sides.map((field) => Math.max(0, Math.round(Number(field.value) || 0)));
  }

  get inPart() {
    return this.mask !== null || this.expand.some((side) => side > 0);
  }

  // A file of this machine: it is sent, and stays at hand in case the server has forgotten it.
  async take(file) {
    const { id, width, height } = await call("POST", "/v1/uploads", file, file.type || "image/png");
    this.clear();
    this.picture = { id, width, height, name: file.name ?? "a picture", url: addressOf(id), data: file };
    await this.shown();
  }

  // A picture of the gallery.
  async start(entry) {
    this.clear();
    const name = entry.recipe?.request?.prompt ?? "a picture";
    this.picture = { id: entry.id, width: entry.width, height: entry.height, name, url: pngOf(entry.id) };
    await this.shown();
  }

  async shown() {
    this.picture.image = await loaded(this.picture.url);
    this.show();
  }

  async paint() {
    const found = await this.painter.open(this.picture, this.mask?.canvas ?? null);
    if (found === null) return;
    this.mask = found.empty ? null : { canvas: found, id: null };
    const own = this.ownSize();
    const pixels = this.picture.width * this.picture.height;
    byId("only-masked").checked = Boolean(own) && pixels > 2 * own.width * own.height;
    this.show();
  }

  show() {
    const { picture, mask } = this;
    byId("source").hidden = picture === null;
    byId("source-open").classList.toggle("on", picture !== null);
    if (picture) {
      byId("source-name").textContent = picture.name;
      byId("source-how").textContent = this.how();
      byId("source-unpaint").hidden = mask === null;
      byId("source-paint").textContent = mask === null ? "Paint a part …" : "Paint …";
      byId("only-masked-field").hidden = mask === null;
      byId("resize-field").hidden = this.inPart;
      byId("strength").placeholder = this.inPart ? "1" : "0.8";
      this.view();
    }
    this.onChange();
  }

  how() {
    const { width, height } = this.picture;
    const [left, top, right, bottom] = this.expand;
    const wide = `${width} × ${height}`;
    if (left + top + right + bottom) return `${wide}, becomes ${width + left + right} × ${height + top + bottom}`;
    return this.mask ? `${wide}, the painted part is drawn anew` : `${wide}, drawn over as a whole`;
  }

  // The small picture, with what is painted over it.
  view() {
    const canvas = byId("source-view");
    const { image } = this.picture;
    if (!image) return;
    const scale = Math.min(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
    const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
    const [x, y] = [(canvas.width - w) / 2, (canvas.height - h) / 2];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, x, y, w, h);
    if (!this.mask) return;
    const glass = new OffscreenCanvas(canvas.width, canvas.height);
    const over = glass.getContext("2d");
    over.drawImage(this.mask.canvas, x, y, w, h);
    const levels = over.getImageData(0, 0, canvas.width, canvas.height);
    for (let k = 0; k < levels.data.length; k += 4) levels.data[k + 3] = levels.data[k];
    over.putImageData(levels, 0, 0);
    over.globalCompositeOperation = "source-in";
    over.fillStyle = MASKED;
    over.fillRect(0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.6;
    context.drawImage(glass, 0, 0);
    context.globalAlpha = 1;
  }

  // `source` of POST /v1/images; null without a picture. What the server may lack is sent first.
  async request(again = false) {
    if (!this.picture) return null;
    if (again && this.picture.data) await call("POST", "/v1/uploads", this.picture.data, this.picture.data.type);
    if (this.mask && (again || !this.mask.id)) {
      const data = await blobOf(this.mask.canvas);
      this.mask.id = (await call("POST", "/v1/uploads", data, "image/png")).id;
      this.onChange();
    }
    const strength = byId("strength").value;
    const source = { image: this.picture.id };
    if (strength !== "") source.strength = Number(strength);
    if (this.inPart) {
      source.inpaint = { mask: this.mask?.id ?? "", expand: this.expand, only_masked: this.mask !== null && byId("only-masked").checked };
    } else source.resize = byId("resize").value;
    return source;
  }

  // What a recipe started from; gives what is not here any more, a sentence each.
  async restore(record) {
    this.clear();
    if (!record) {
      this.show();
      return [];
    }
    try {
      const url = addressOf(record.image);
      const image = await loaded(url);
      this.picture = { id: record.image, width: image.naturalWidth, height: image.naturalHeight, name: "as before", url, image };
      byId("strength").value = record.strength ?? "";
      byId("resize").value = record.resize ?? "fill";
      if (record.inpaint) await this.restorePart(record.inpaint);
      this.show();
      return record.inversion ? ["Its inversion cannot be set here."] : [];
    } catch {
      this.clear();
      this.show();
      return ["The picture that it started from is not here."];
    }
  }

  async restorePart(inpaint) {
    this.sides.forEach((field, side) => { field.value = inpaint.expand?.[side] || ""; });
    if (inpaint.mask) {
      const image = await loaded(addressOf(inpaint.mask));
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      canvas.getContext("2d").drawImage(image, 0, 0);
      this.mask = { canvas, id: inpaint.mask };
    }
    byId("only-masked").checked = inpaint.only_masked ?? false;
  }

  // What a reload brings back.
  get kept() {
    if (!this.picture) return null;
    const inpaint = this.inPart ? { mask: this.mask?.id ?? "", expand: this.expand, only_masked: byId("only-masked").checked } : null;
    return { image: this.picture.id, strength: byId("strength").value, resize: byId("resize").value, inpaint };
  }
}
