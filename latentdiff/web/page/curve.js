// Learning curves as one drawing: what is learnt, and what was held out.

const SPACE = document.querySelector("svg").namespaceURI;
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [560, 180, 44, 22, 10];

function shape(tag, attributes, text) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// curves: name → points (x, y). The figure keeps its caption.
export function drawCurves(figure, curves) {
  const all = Object.values(curves).flat();
  const x = scale(all.map((point) => point[0]), LEFT, WIDTH - 8);
  const y = scale(all.map((point) => point[1]), HEIGHT - BOTTOM, TOP);
  const drawing = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told(curves) });
  for (const value of [y.low, y.high]) {
    drawing.append(
      shape("line", { class: "rule", x1: LEFT, x2: WIDTH - 8, y1: y.at(value), y2: y.at(value) }),
      shape("text", { class: "tick", x: LEFT - 6, y: y.at(value) + 4, "text-anchor": "end" }, value.toPrecision(3)),
    );
  }
  drawing.append(shape("text", { class: "tick", x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end" }, `update ${x.high}`));
  let row = 0;
  for (const [name, points] of Object.entries(curves)) {
    if (!points.length) continue;
    const kind = name.replaceAll(" ", "-");
    const path = points.map(([a, b]) => `${x.at(a).toFixed(1)},${y.at(b).toFixed(1)}`).join(" ");
    drawing.append(shape("polyline", { class: `line ${kind}`, points: path }));
    if (kind === "held-out") for (const [a, b] of points) drawing.append(shape("circle", { class: `dot ${kind}`, cx: x.at(a), cy: y.at(b), r: 3 }));
    drawing.append(shape("text", { class: `name ${kind}`, x: WIDTH - 14, y: TOP + 12 + 16 * row, "text-anchor": "end" }, name));
    row += 1;
  }
  figure.querySelector("svg")?.remove();
  figure.prepend(drawing);
}

function scale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const range = high - low || 1;
  return { low, high, at: (value) => from + ((value - low) / range) * (to - from) };
}

function told(curves) {
  return Object.entries(curves)
    .filter(([, points]) => points.length)
    .map(([name, points]) => `${name}: from ${points[0][1].toPrecision(3)} to ${points.at(-1)[1].toPrecision(3)}`)
    .join("; ");
}
