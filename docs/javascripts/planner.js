// The planner's page: what the form says becomes a plan, shown as `x1 plan` shows it.
//
// The address holds the state, under the names that the command and the configuration use, and only
// what differs from the preset. Words come from the page itself or, for sentences of the plan, from
// the package.

import { optimalParameters, overtrainingNats } from "./costs.js";
import {
  InputError, exponential, fill, fixed, floatText, general, grouped, parseCount, parseNumber,
} from "./numbers.js";
import { hasLaw, makePlan } from "./plan.js";
import { constants, element, fields, form, pageWords } from "./planner-page.js";
import { drawPlot } from "./planner-plot.js";
import {
  shortNumber, showSentence, showSize, showSummary, showTables,
} from "./planner-record.js";

const SHAPE = ["n_layers", "d_model", "n_heads", "d_ff", "vocab_size", "context"];
const MONEY = ["watts", "tariff_usd_per_kwh"];
const OPTIONS = ["price_usd_per_hour", "tokens", "mfu", "tokens_per_s"]; // of the command itself
const LEAST = 1e-9; // beyond these no reader means it, and doubles begin to run out
const MOST = 1e15;
const D_FF_STEP = 32; // every preset's d_ff is a multiple of it
const WIDEST = 4; // times the preset's width, at the right end of the slider
const PAUSE_MS = 700; // of a reader who moves a slider, before the result is read aloud

// ---- The form

const steps = (from, to) => {
  const found = [];
  for (let power = from; power < to; power += 1) {
    for (const part of [10, 12, 15, 20, 25, 30, 40, 50, 60, 80]) {
      found.push(Number(`${part}e${power - 1}`));
    }
  }
  return [...found, 10 ** to];
};
const hundredths = Array.from({ length: 100 }, (_, i) => (i + 1) / 100);

// The positions of each slider, and how a position is typed.
const SLIDERS = {
  tokens: { values: steps(5, 12), typed: (value) => shortNumber(value) },
  price_usd_per_hour: { values: steps(-1, 2), typed: (value) => general(value) },
  mfu: { values: hundredths, typed: (value) => general(value, 3) },
};

function presetOf(name) {
  return constants.presets[name];
}

function fillChoices() {
  for (const name of Object.keys(constants.presets)) fields.preset.append(new Option(name, name));
  const groups = { rented: pageWords.rented, own: pageWords.own };
  for (const [kind, label] of Object.entries(groups)) {
    const group = document.createElement("optgroup");
    group.label = label;
    for (const machine of Object.values(constants.hardware)) {
      if (machine.own === (kind === "own")) group.append(new Option(machine.name, machine.name));
    }
    fields.gpu.append(group);
  }
  for (const [name, { values }] of Object.entries(SLIDERS)) slider(name).max = values.length - 1;
}

function slider(name) {
  return element(`${name}-slider`);
}

// Everything of a preset that the form shows and another preset does not share.
function showPreset(name) {
  const { model, train } = presetOf(name);
  for (const field of SHAPE) fields[field].value = String(model[field]);
  fields.tied.checked = model.tied;
  fields.recompute.checked = train.recompute;
  fields.tokens.value = "";
  slider("scale").max = WIDEST * model.n_heads;
}

// The shape of so many heads in the preset's proportions; with the preset's own heads, the preset.
function shapeOfHeads(heads, { model }) {
  const factor = heads / model.n_heads;
  return {
    n_layers: Math.max(1, Math.round(model.n_layers * factor)),
    d_model: (model.d_model / model.n_heads) * heads,
    n_heads: heads,
    d_ff: Math.max(D_FF_STEP, Math.round((model.d_ff * factor) / D_FF_STEP) * D_FF_STEP),
  };
}

// What was typed into a field as a number; undefined if nothing was.
function typedNumber(name, parse) {
  const text = fields[name].value;
  if (!text.trim()) return undefined;
  try {
    const value = parse(text, constants.words);
    const size = Math.abs(value);
    if (size > MOST || (size > 0 && size < LEAST)) {
      const [least, most] = [LEAST, MOST].map((bound) => general(bound));
      throw new InputError(fill(pageWords.range, { text, least, most }));
    }
    return value;
  } catch (fault) {
    fault.field = name;
    throw fault;
  }
}

function asked() {
  const { model } = presetOf(fields.preset.value);
  const shape = { tied: fields.tied.checked };
  for (const name of SHAPE) shape[name] = typedNumber(name, parseCount) ?? model[name];
  return {
    preset: fields.preset.value,
    shape,
    recompute: fields.recompute.checked,
    hardware: fields.gpu.value,
    price: typedNumber("price_usd_per_hour", parseNumber),
    tokens: typedNumber("tokens", parseCount),
    mfu: typedNumber("mfu", parseNumber),
    tokens_per_s: typedNumber("tokens_per_s", parseNumber),
    watts: typedNumber("watts", parseNumber),
    tariff_usd_per_kwh: typedNumber("tariff_usd_per_kwh", parseNumber),
  };
}

// ---- The address

// What the form says beyond its preset: [name, text] pairs.
function stated() {
  const { model, train, money } = presetOf(fields.preset.value);
  const pairs = [["preset", fields.preset.value]];
  if (fields.gpu.value !== money.hardware) pairs.push(["gpu", fields.gpu.value]);
  for (const name of [...OPTIONS, ...MONEY]) {
    if (fields[name].value.trim()) pairs.push([name, fields[name].value.trim()]);
  }
  for (const name of SHAPE) {
    const text = fields[name].value.trim();
    if (text && text !== String(model[name])) pairs.push([name, text]);
  }
  if (fields.tied.checked !== model.tied) pairs.push(["tied", String(fields.tied.checked)]);
  if (fields.recompute.checked !== train.recompute) {
    pairs.push(["recompute", String(fields.recompute.checked)]);
  }
  return pairs;
}

function writeAddress() {
  const query = `?${new URLSearchParams(stated())}`;
  const { search, hash } = window.location;
  if (query !== search) window.history.replaceState(null, "", query + hash);
  // The twin in the other language shows the same plan.
  for (const link of document.querySelectorAll("a[hreflang]")) link.search = query;
}

// Fills the form from the address; answers with a choice that does not exist, if it names one.
function readAddress() {
  const given = new URLSearchParams(window.location.search);
  const choose = (select, value) => {
    if ([...select.options].some((option) => option.value === value)) select.value = value;
    else return fill(pageWords.unknown, { name: select.name, value });
    return "";
  };
  let fault = choose(fields.preset, given.get("preset") ?? "x1-50m");
  showPreset(fields.preset.value);
  const { hardware } = presetOf(fields.preset.value).money;
  fields.gpu.value = hardware;
  fault ||= choose(fields.gpu, given.get("gpu") ?? hardware);
  for (const name of [...OPTIONS, ...MONEY]) fields[name].value = given.get(name) ?? "";
  for (const name of SHAPE) if (given.has(name)) fields[name].value = given.get(name);
  for (const name of ["tied", "recompute"]) {
    if (given.has(name)) fields[name].checked = given.get(name) === "true";
  }
  if (SHAPE.some((name) => given.has(name))) element("shape").open = true;
  return fault;
}

// The command that prints the same plan.
function command() {
  const parts = ["x1 plan"];
  for (const [name, text] of stated()) {
    const value = text.replaceAll(/\s/g, "");
    if (name === "preset" || name === "gpu" || OPTIONS.includes(name)) {
      parts.push(`--${name.replaceAll("_", "-")} ${value}`);
    } else if (SHAPE.includes(name)) {
      parts.push(`--set model.${name}=${parseCount(text, constants.words)}`);
    } else if (MONEY.includes(name)) {
      parts.push(`--set money.${name}=${parseNumber(text, constants.words)}`);
    } else {
      parts.push(`--set ${name === "tied" ? "model" : "train"}.${name}=${value}`);
    }
  }
  return parts.join(" ");
}

// ---- Beside the laws and the reports

function showPlot(record) {
  const perToken = constants.flops_per_parameter_token;
  const { parameters: ownN } = record.model;
  const yours = { N: ownN, C: perToken * ownN * record.tokens };
  const points = [];
  for (const item of document.querySelectorAll("[data-report]")) {
    const { parameters: N, tokens: D } = constants.reports[item.dataset.report];
    const label = item.dataset.label;
    points.push({ N, C: D && perToken * N * D, label, kind: "report" });
    const text = fill(D ? pageWords.stated : pageWords.unstated, {
      parameters: shortNumber(N),
      tokens: D && shortNumber(D),
    });
    item.textContent = text;
  }
  points.push({ ...yours, label: pageWords.yours, kind: "yours" });

  const svg = element("plot");
  const width = svg.parentElement.clientWidth;
  if (width) {
    const words = { x: pageWords.x, y: pageWords.y };
    drawPlot(svg, width, { points, constants, words, shortNumber });
  }
  const sizes = constants.laws.map((law) => optimalParameters(law, yours.C, constants));
  const nats = constants.laws.map((law) => overtrainingNats(law, yours.N, yours.C, constants));
  const from = (values, write) => {
    const ends = [Math.min(...values), Math.max(...values)].map(write);
    return ends[0] === ends[1] ? ends[0] : ends.join(" – ");
  };
  const lawful = hasLaw(presetOf(record.preset).data);
  const caption = fill(lawful ? pageWords.optimum : pageWords.unlawful, {
    flops: exponential(yours.C, 2),
    optimal: from(sizes, (value) => shortNumber(value)),
    parameters: shortNumber(yours.N),
    nats: from(nats, (value) => fixed(value, 3)),
  });
  element("optimum").textContent = caption;
  svg.setAttribute("aria-label", `${pageWords.plot} ${caption}`);
}

// ---- All together

function today() {
  const now = new Date();
  const two = (number) => String(number).padStart(2, "0");
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
}

let announcing;

function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    element("live").textContent = text;
  }, PAUSE_MS);
}

function showFault(text, field) {
  element("fault").textContent = text;
  for (const name of [...OPTIONS, ...MONEY, ...SHAPE]) {
    if (name === field) fields[name].setAttribute("aria-invalid", "true");
    else fields[name].removeAttribute("aria-invalid");
  }
  element("result").hidden = text !== "";
  element("summary").hidden = text !== "";
  element("fault").hidden = text === "";
}

// The fields that this machine has, and beside each what it holds when it is empty.
function showControls(record) {
  const machine = constants.hardware[fields.gpu.value];
  const show = (name, wanted) => {
    element(`${name}-field`).hidden = !wanted && !fields[name].value;
  };
  show("price_usd_per_hour", !machine.own);
  for (const name of MONEY) show(name, machine.own);
  show("mfu", machine.card !== null);

  const defaults = { preset: fields.preset.value, hardware: machine.name };
  const { tokens, steps: count, batch_tokens: batch, ...known } =
    record ?? makePlan(defaults, today(), constants);
  const values = {
    tokens, price_usd_per_hour: known.price?.usd_per_hour, mfu: known.predictions.mfu.value,
  };
  for (const [name, { values: positions, typed }] of Object.entries(SLIDERS)) {
    const value = values[name] ?? positions[0];
    const distance = (i) => Math.abs(Math.log(positions[i] / value));
    const nearest = positions.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0);
    slider(name).value = nearest;
    slider(name).setAttribute("aria-valuetext", typed(value));
    fields[name].placeholder = values[name] ? typed(value) : "";
  }
  const parameters = record ? grouped(record.model.parameters) : "–";
  if (record) slider("scale").value = fields.n_heads.value;
  slider("scale").setAttribute("aria-valuetext", fill(pageWords.parameters, { parameters }));
  element("parameters").textContent = parameters;
  element("tokens-note").textContent = fill(pageWords.steps, {
    steps: grouped(count), batch: grouped(batch), tokens: grouped(tokens),
  });
  const [guess, low, high] = constants.mfu_guess.map(floatText);
  element("mfu-note").textContent = fill(pageWords.mfu, { guess, low, high });
  element("watts-note").textContent = fill(pageWords.watts, { watts: general(machine.watts) });
}

let shown = null; // the record on the page

function update(given = "") {
  let record = null;
  let text = given;
  let field;
  try {
    if (!text) record = makePlan(asked(), today(), constants);
  } catch (fault) {
    if (!(fault instanceof InputError)) throw fault;
    text = fault.message.trim();
    field = fault.field;
  }
  showFault(text, field);
  showControls(record);
  writeAddress();
  shown = record;
  if (!record) {
    announce(text);
    return;
  }
  element("command").textContent = command();
  showSentence(record);
  showSize(record);
  showSummary(record);
  showTables(record);
  showPlot(record);
  announce(record.sentence ?? record.reasons.map((reason) => reason.text).join(" "));
}

function listen() {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    if (target === fields.preset) {
      showPreset(target.value);
      const { hardware } = presetOf(target.value).money;
      if (fields.gpu.value === machineBefore.ofPreset) fields.gpu.value = hardware;
    }
    // A price belongs to the machine it was typed for, and so do watts.
    if (fields.gpu.value !== machineBefore.chosen) {
      for (const name of ["price_usd_per_hour", ...MONEY]) fields[name].value = "";
    }
    const name = Object.keys(SLIDERS).find((each) => slider(each) === target);
    if (name) fields[name].value = SLIDERS[name].typed(SLIDERS[name].values[target.value]);
    if (name === "mfu") fields.tokens_per_s.value = "";
    if (target === slider("scale")) {
      const shape = shapeOfHeads(Number(target.value), presetOf(fields.preset.value));
      for (const [field, value] of Object.entries(shape)) fields[field].value = String(value);
    }
    rememberMachine();
    update();
  });
  element("again").addEventListener("click", () => {
    window.history.replaceState(null, "", window.location.pathname);
    begin();
  });
  window.addEventListener("popstate", begin); // back and forward
  new ResizeObserver(() => {
    if (shown) showPlot(shown);
  }).observe(element("plot").parentElement);
}

// The machine chosen, and the preset's own, before the reader changes either.
let machineBefore;

function rememberMachine() {
  const ofPreset = presetOf(fields.preset.value).money.hardware;
  machineBefore = { chosen: fields.gpu.value, ofPreset };
}

function begin() {
  const fault = readAddress();
  rememberMachine();
  update(fault);
}

fillChoices();
element("waits").hidden = true;
for (const part of document.querySelectorAll(".planner-part")) part.hidden = false;
begin();
listen();
