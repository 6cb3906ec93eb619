// The planner's plot: training compute against parameters, both on logarithmic axes, as SVG.

import { optimalParameters } from "./costs.js";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 30, right: 14, bottom: 42, left: 46 };
const ROOM = 0.15; // decades between a point and the edge

// Draws into `svg`, `width` CSS pixels wide. `points` are {N, C, label, kind}, C null where a
// report states no tokens; `words` are the labels, `shortNumber` writes 47M.
export function drawPlot(svg, width, { points, constants, words, shortNumber }) {
  const height = Math.round(Math.min(440, Math.max(300, 0.62 * width)));
  const placed = points.filter((point) => point.C !== null);
  const xs = decades(points.map((point) => point.N));
  const ys = decades(placed.map((point) => point.C));
  const x = scale(xs, MARGIN.left, width - MARGIN.right);
  const y = scale(ys, height - MARGIN.bottom, MARGIN.top);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);

  const put = (name, attributes, text, parent = svg) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };

  for (let power = xs[0]; power <= xs[1]; power += 1) {
    const at = x(10 ** power);
    put("line", { class: "grid", x1: at, x2: at, y1: MARGIN.top, y2: height - MARGIN.bottom });
    const last = power === xs[1];
    const tick = { x: at, y: height - MARGIN.bottom + 17, "text-anchor": last ? "end" : "middle" };
    put("text", tick, shortNumber(10 ** power));
  }
  const every = Math.ceil((ys[1] - ys[0]) / 8);
  for (let power = ys[0]; power <= ys[1]; power += every) {
    const at = y(10 ** power);
    put("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at });
    put("text", { x: MARGIN.left - 6, y: at + 4, "text-anchor": "end" }, `10${raised(power)}`);
  }
  put("text", { class: "axis", x: 2, y: 14 }, words.y);
  const xTitle = { class: "axis", x: width - MARGIN.right, y: height - 6, "text-anchor": "end" };
  put("text", xTitle, words.x);

  const clip = put("clipPath", { id: "planner-plot-inside" });
  const inside = {
    x: MARGIN.left, y: MARGIN.top,
    width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom,
  };
  put("rect", inside, undefined, clip);
  const curves = put("g", { "clip-path": "url(#planner-plot-inside)" });

  const perToken = constants.flops_per_parameter_token;
  // A line of constant tokens rises one decade for each decade to the right.
  const slope = (y(10) - y(1)) / (x(10) - x(1));
  const degrees = (Math.atan(slope) * 180) / Math.PI;
  const unit = Math.log10(perToken);
  const [fewest, most] = [ys[0] - xs[1] - unit, ys[1] - xs[0] - unit];
  const step = most - fewest > 9 ? 2 : 1;
  for (let power = Math.ceil(fewest); power <= most; power += step) {
    const tokens = 10 ** power;
    const ends = [10 ** xs[0], 10 ** xs[1]].map((N) => [x(N), y(perToken * N * tokens)]);
    put("path", { class: "tokens", d: path(ends) }, undefined, curves);
    // The label stands on the line, a little inside the edge by which the line leaves.
    const [right, top] = [10 ** xs[1], 10 ** ys[1] / (perToken * tokens)];
    const back = top < right ? 34 : 8;
    const N = Math.min(right, top);
    const [at, up] = [x(N) - back, y(perToken * N * tokens) - back * slope];
    const label = { class: "tokens", "text-anchor": "end", x: at, y: up };
    label.transform = `rotate(${degrees} ${at} ${up}) translate(0 -3)`;
    if (at > MARGIN.left + 60) put("text", label, `D = ${shortNumber(tokens)}`, curves);
  }

  constants.laws.forEach((law, index) => {
    const line = [];
    for (let power = ys[0]; power <= ys[1] + 1e-9; power += (ys[1] - ys[0]) / 60) {
      line.push([x(optimalParameters(law, 10 ** power, constants)), y(10 ** power)]);
    }
    put("path", { class: `law law-${index}`, d: path(line) }, undefined, curves);
  });

  const bottom = height - MARGIN.bottom;
  for (const { N, C, label, kind } of points) {
    const [at, up] = [x(N), C === null ? bottom - 12 : y(C)];
    const group = put("g", { class: kind });
    if (C === null) {
      put("line", { x1: at, x2: at, y1: bottom - 4, y2: bottom + 4 }, undefined, group);
    }
    if (kind === "yours") {
      put("circle", { cx: at, cy: up, r: 16 }, undefined, group);
      const others = placed.filter((point) => point.kind !== "yours");
      const half = 3.5 * label.length; // of the label's width, roughly
      const sides = [[0, -22], [-24 - half, 4], [24 + half, 4], [0, 32]]
        .map(([dx, dy]) => [at + dx, up + dy])
        .filter(([cx, cy]) => inside.x < cx - half && cx + half < width && cy < bottom && cy > 12);
      const apart = ([cx, cy], p) =>
        Math.hypot((x(p.N) - cx) / (half + 10), (y(p.C) - cy + 4) / 16);
      const free = (side) => Math.min(...others.map((point) => apart(side, point)));
      const [best] = sides.sort((one, two) => free(two) - free(one));
      if (best) put("text", { x: best[0], y: best[1], "text-anchor": "middle" }, label, group);
    } else {
      put("circle", { cx: at, cy: up, r: label.length > 1 ? 11 : 8.5 }, undefined, group);
      put("text", { x: at, y: up + 4, "text-anchor": "middle" }, label, group);
    }
  }
}

// The powers of ten around some values.
function decades(values) {
  const logs = values.map(Math.log10);
  return [Math.floor(Math.min(...logs) - ROOM), Math.ceil(Math.max(...logs) + ROOM)];
}

function scale([low, high], from, to) {
  return (value) => from + ((Math.log10(value) - low) / (high - low)) * (to - from);
}

function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function raised(power) {
  return [...String(power)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");
}
