// Painting a mask over a picture: by mouse, pen, finger or keys. White of the mask is drawn anew.

import { byId } from "./dom.js";

const COLOUR = "#3f7bff";

export class Painter {
  constructor() {
    this.dialog = byId("painter");
    this.canvas = byId("paint");
    this.context = this.canvas.getContext("2d");
    this.listen();
  }

  // Opens over a picture {url, width, height}; `mask` is what was painted before, a canvas or null.
  // Gives a canvas of the picture's size, white where it is painted, or null when it was cancelled.
  async open(picture, mask) {
    this.canvas.width = picture.width;
    this.canvas.height = picture.height;
    byId("paint-picture").src = picture.url;
    this.before = mask;
    this.strokes = [];
    this.erasing(false);
    this.at = [picture.width / 2, picture.height / 2];
    this.redraw();
    this.dialog.returnValue = "";
    this.dialog.showModal();
    this.fit();
    this.canvas.focus();
    await new Promise((resolve) => this.dialog.addEventListener("close", resolve, { once: true }));
    return this.dialog.returnValue === "done" ? this.result() : null;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.begin(this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.ring(event);
      if (!this.stroke) return;
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const one of passed.length ? passed : [event]) this.go(this.place(one));
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { this.stroke = null; });
    canvas.addEventListener("pointerleave", () => { byId("ring").hidden = true; });
    canvas.addEventListener("keydown", (event) => this.key(event));
    byId("paint-erase").addEventListener("click", () => this.erasing(!this.erase));
    byId("paint-undo").addEventListener("click", () => this.undo());
    byId("paint-clear").addEventListener("click", () => this.whole("clear"));
    byId("paint-invert").addEventListener("click", () => this.whole("invert"));
    addEventListener("resize", () => this.dialog.open && this.fit());
  }

  // Pixels of the picture across the brush.
  get size() {
    const longer = Math.max(this.canvas.width, this.canvas.height);
    return Math.max(1, (Number(byId("brush").value) / 100) ** 1.5 * longer);
  }

  erasing(on) {
    this.erase = on;
    byId("paint-erase").setAttribute("aria-pressed", String(on));
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.canvas.width,
      ((event.clientY - box.top) / box.height) * this.canvas.height,
    ];
  }

  begin(point) {
    this.at = point;
    this.stroke = { size: this.size, erase: this.erase, points: [point] };
    this.strokes.push(this.stroke);
    this.draw(this.stroke, 0);
  }

  go(point) {
    this.at = point;
    this.stroke.points.push(point);
    this.draw(this.stroke, this.stroke.points.length - 2);
  }

  // The stroke from its point k on; a single point is a dab.
  draw(stroke, k) {
    const { context } = this;
    context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
    context.strokeStyle = COLOUR;
    context.lineWidth = stroke.size;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    const points = stroke.points.slice(Math.max(0, k));
    context.moveTo(...points[0]);
    for (const point of points.length > 1 ? points.slice(1) : points) context.lineTo(...point);
    context.stroke();
  }

  redraw() {
    const { context, canvas } = this;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (this.before) this.tint(this.before);
    for (const stroke of this.strokes) {
      if (stroke.whole) this.all(stroke.whole);
      else this.draw(stroke, 0);
    }
  }

  // What is white of a mask, in the brush's colour.
  tint(mask) {
    const tinted = new OffscreenCanvas(mask.width, mask.height);
    const context = tinted.getContext("2d");
    context.drawImage(mask, 0, 0);
    const pixels = context.getImageData(0, 0, mask.width, mask.height);
    for (let k = 0; k < pixels.data.length; k += 4) {
      pixels.data[k + 3] = pixels.data[k];
      [pixels.data[k], pixels.data[k + 1], pixels.data[k + 2]] = [63, 123, 255];
    }
    context.putImageData(pixels, 0, 0);
    this.context.drawImage(tinted, 0, 0);
  }

  whole(what) {
    this.strokes.push({ whole: what });
    this.all(what);
  }

  all(what) {
    const { context, canvas } = this;
    context.globalCompositeOperation = what === "clear" ? "copy" : "source-out";
    context.fillStyle = what === "clear" ? "transparent" : COLOUR;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
  }

  undo() {
    this.strokes.pop();
    this.redraw();
  }

  key(event) {
    const step = Math.max(1, this.size / 4);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const brush = byId("brush");
    if (event.key in moves) {
      this.at = this.at.map((value, axis) => value + moves[event.key][axis]);
      this.ring();
    } else if (event.key === " ") {
      this.begin([...this.at]);
      this.stroke = null;
    } else if (event.key === "[" || event.key === "]") {
      brush.value = Number(brush.value) + (event.key === "]" ? 4 : -4);
      this.ring();
    } else if (event.key === "z") this.undo();
    else if (event.key === "e") this.erasing(!this.erase);
    else return;
    event.preventDefault();
  }

  // The brush's outline, at the pointer or where the keys have led.
  ring(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = box.width / this.canvas.width;
    const [x, y] = event ? this.place(event) : this.at;
    const ring = byId("ring");
    ring.hidden = false;
    ring.style.width = ring.style.height = `${this.size * scale}px`;
    ring.style.left = `${x * scale}px`;
    ring.style.top = `${y * scale}px`;
  }

  // As large as there is room, never over the edge.
  fit() {
    const room = byId("easel").getBoundingClientRect();
    const { width, height } = this.canvas;
    const scale = Math.min(room.width / width, room.height / height, 12);
    byId("paint-sheet").style.width = `${width * scale}px`;
    byId("paint-sheet").style.height = `${height * scale}px`;
  }

  // White on black; null when nothing is painted.
  result() {
    const { canvas } = this;
    const pixels = this.context.getImageData(0, 0, canvas.width, canvas.height);
    let painted = false;
    for (let k = 0; k < pixels.data.length; k += 4) {
      const level = pixels.data[k + 3];
      painted ||= level > 0;
      pixels.data[k] = pixels.data[k + 1] = pixels.data[k + 2] = level;
      pixels.data[k + 3] = 255;
    }
    if (!painted) return { empty: true };
    const mask = document.createElement("canvas");
    mask.width = canvas.width;
    mask.height = canvas.height;
    mask.getContext("2d").putImageData(pixels, 0, 0);
    return mask;
  }
}
