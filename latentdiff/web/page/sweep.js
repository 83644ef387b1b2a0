// Values to compare: one setting across, one down, a picture at every crossing.

import { byId, make } from "./dom.js";

const AXES = [
  ["steps", "Steps", "10, 25, 50"],
  ["guidance_scale", "Guidance", "1, 3, 7"],
  ["seed", "Seed", "1, 2, 3"],
  ["scheduler", "Sampler", "ddim, euler, dpmsolver++"],
  ["prompt", "Prompt", "a cat | a dog"],
  ["negative_prompt", "Avoid", "blurry | dark"],
  ["eta", "Eta", "0, 0.5, 1"],
  ["strength", "Change", "0.3, 0.6, 0.9"],
  ["variation_strength", "Variation", "0, 0.2, 0.4"],
];

export const titleOf = (name) => AXES.find(([known]) => known === name)?.[1] ?? name.replaceAll("_", " ");

export class Sweep {
  constructor(onChange) {
    this.selects = [...document.querySelectorAll("[data-axis]")];
    this.values = [...document.querySelectorAll("[data-values]")];
    for (const select of this.selects) {
      select.append(make("option", { value: "", text: "nothing" }), ...AXES.map(([value, text]) => make("option", { value, text })));
    }
    byId("sweep").addEventListener("input", () => { this.show(); onChange(); });
    this.show();
  }

  show() {
    this.selects.forEach((select, axis) => {
      const known = AXES.find(([name]) => name === select.value);
      this.values[axis].disabled = !known;
      this.values[axis].placeholder = known ? known[2] : "";
    });
  }

  // `sweep` of POST /v1/images; an empty list where nothing is compared.
  request() {
    return this.selects
      .map((select, axis) => [select.value, this.values[axis].value.trim() || this.values[axis].placeholder])
      .filter(([name]) => name)
      .map(([name, values]) => `${name}=${values.replaceAll(/\s*([,|])\s*/g, "$1")}`);
  }

  // How many pictures that makes.
  get count() {
    const parts = this.request().map((text) => text.slice(text.indexOf("=") + 1).split(text.includes("|") ? "|" : ",").length);
    return parts.reduce((product, length) => product * length, parts.length ? 1 : 0);
  }

  get kept() {
    return this.selects.map((select, axis) => [select.value, this.values[axis].value]);
  }

  set(kept) {
    this.selects.forEach((select, axis) => { [select.value, this.values[axis].value] = kept?.[axis] ?? ["", ""]; });
    if (this.count) byId("sweep").open = true;
    this.show();
  }
}
