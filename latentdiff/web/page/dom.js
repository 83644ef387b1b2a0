// Small helpers. Text from outside only ever becomes text, never markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, { text, on, data, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  for (const [name, handler] of Object.entries(on ?? {})) element.addEventListener(name, handler);
  Object.assign(element.dataset, data ?? {});
  element.append(...children);
  return element;
}

export function sentence(text) {
  const plain = String(text).trim();
  const begun = plain.charAt(0).toUpperCase() + plain.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

let fading = null;
export function toast(text, action = null) {
  const place = byId("toast");
  place.replaceChildren(make("span", { text: sentence(text) }));
  if (action) place.append(make("button", { type: "button", text: action.text, on: { click: () => { place.hidden = true; action.run(); } } }));
  place.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => { place.hidden = true; }, action ? 8000 : 5000);
}

export function ordinal(n) {
  const tail = n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th";
  return `${n}${tail}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 90) return `${Math.max(1, Math.round(value))} s left`;
  return `${Math.round(value / 60)} min left`;
}
