// The record of a plan on the page, worded and rounded as `x1 plan` prints it.

import { rateText, usd } from "./costs.js";
import { exponential, fixed, general, grouped } from "./numbers.js";
import { element, pageWords, say } from "./planner-page.js";

const GIGA = 1e9;

// x1.plan_page._short: "46.9M".
export function shortNumber(number, giga = "B") {
  for (const [unit, letter] of [[1e12, "T"], [1e9, giga], [1e6, "M"], [1e3, "k"]]) {
    if (number >= unit) return `${general(number / unit, 3)}${letter}`;
  }
  return general(number, 3);
}

// x1.plan_page._figure
function figure(name, value) {
  if (value === null) return "–";
  if (name === "dollars") return usd(value);
  if (name.endsWith("bytes")) return `${fixed(value / GIGA, 2)} GB`;
  if (["tokens_per_s", "micro_batch"].includes(name) || name.startsWith("checkpoints")) {
    return grouped(value);
  }
  if (["mfu", "loss_nats_per_token", "bits_per_byte"].includes(name)) return fixed(value, 3);
  return value >= 0.1 || value === 0 ? fixed(value, 2) : general(value, 2);
}

function interval(name, { low, high }) {
  return low === high ? "" : `${figure(name, low)} – ${figure(name, high)}`;
}

// A line of a table and, below it, what it rests on.
function rows(heading, cells, basis = "") {
  const make = (name, properties) => Object.assign(document.createElement(name), properties);
  const tr = make("tr", {});
  tr.append(make("th", { scope: "row", textContent: heading }));
  for (const cell of cells) tr.append(make("td", { textContent: cell }));
  if (!basis) return [tr];
  const below = make("tr", { className: "planner-basis" });
  below.append(make("td", { colSpan: cells.length + 1, textContent: basis }));
  return [tr, below];
}

export function showTables(record) {
  const predictions = Object.entries(record.predictions).flatMap(([name, prediction]) => {
    const cells = [figure(name, prediction.value), interval(name, prediction)];
    return rows(say(`row.${name}`), cells, prediction.basis);
  });
  element("predictions").replaceChildren(...predictions);

  const lines = record.lines.flatMap(({ item, hours, usd: dollars }) => {
    const bases = dollars.value ? [hours.basis, dollars.basis] : [hours.basis];
    const cells = [figure("hours", hours.value), figure("dollars", dollars.value)];
    return rows(say(`line.${item}`), cells, [...new Set(bases)].join("; "));
  });
  element("lines").replaceChildren(...lines);
  const { hours, dollars } = record.predictions;
  const sums = [figure("hours", hours.value), figure("dollars", dollars.value)];
  const range = [interval("hours", hours), interval("dollars", dollars)];
  const spread = hours.value === null ? [] : rows(say("column.interval"), range);
  element("sum").replaceChildren(...rows(pageWords.sum, sums), ...spread);

  const amounts = Object.fromEntries(
    Object.entries(record.money).map(([name, amount]) => [
      name.replace(/_usd$/, ""),
      figure("dollars", amount),
    ]),
  );
  element("amounts").textContent = say("amounts", amounts);
  const { price } = record;
  element("price").textContent = price
    ? say(price.kind === "typed" ? "typed_price_line" : "price_line", {
        ...price,
        price: rateText(price.usd_per_hour),
        days: price.age_days,
      })
    : "";
}

export function showSentence(record) {
  element("sentence").textContent = record.sentence ?? "–";
  const { reasons } = record;
  element("verdict").textContent = say(record.launchable ? "launchable" : "not_launchable");
  const items = reasons.map(({ text }) =>
    Object.assign(document.createElement("li"), { textContent: text }),
  );
  element("reasons").replaceChildren(...items);
  element("result").classList.toggle("planner-refused", !record.launchable);
}

export function showSize(record) {
  const { model, flops } = record;
  element("size").textContent = say("heading", {
    date: record.date,
    preset: record.preset,
    hardware: record.hardware.label,
    parameters: shortNumber(model.parameters),
    tokens: shortNumber(record.tokens),
    ratio: fixed(record.tokens_per_parameter, 0),
    causal: shortNumber(model.flops_per_token.causal, "G"),
    full: shortNumber(model.flops_per_token.full, "G"),
    six_n: shortNumber(model.six_n_flops_per_token, "G"),
    total: exponential(flops, 2),
  });
}

export function showSummary(record) {
  const { predictions, model } = record;
  const shown = {
    N: shortNumber(model.parameters),
    D: shortNumber(record.tokens),
    FLOPs: exponential(record.flops, 2),
    h: figure("hours", predictions.hours.value),
    $: figure("dollars", record.money.plan_usd),
    kWh: figure("kwh", predictions.kwh.value),
    nats: figure("loss_nats_per_token", predictions.loss_nats_per_token.value),
  };
  for (const [name, text] of Object.entries(shown)) {
    element("summary").querySelector(`[data-name="${name}"]`).textContent = text;
  }
}
