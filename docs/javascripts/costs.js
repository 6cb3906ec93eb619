// What a run costs in FLOPs, bytes and dollars, and what the laws say of it: x1.flops, x1.scaling
// and x1.money, line by line.

import { InputError, fill, fixed, general, round, significant, withoutZeros } from "./numbers.js";

export const TERA = 1e12;
export const GIGA = 1e9;

// ---- x1.flops

export function parameterGroups(model) {
  const d = model.d_model;
  const headDim = Math.floor(d / model.n_heads);
  const table = model.vocab_size * d;
  const groups = {
    embedding: table,
    head: model.tied ? 0 : table,
    projections: model.n_layers * 4 * d * d,
    mlp: model.n_layers * 3 * d * model.d_ff,
    gains: model.n_layers * (2 * d + (model.qk_norm ? 2 * headDim : 0)) + d,
  };
  groups.matrices = groups.projections + groups.mlp;
  groups.nonEmbedding = groups.matrices + groups.gains;
  groups.total = groups.embedding + groups.head + groups.nonEmbedding;
  return groups;
}

export function tokenFlops(model, convention = "causal") {
  const d = model.d_model;
  const keys = convention === "causal" ? model.context + 1 : 2 * model.context; // twice the mean
  const forward =
    model.n_layers * 4 * 2 * d * d +
    model.n_layers * 3 * 2 * d * model.d_ff +
    model.n_layers * 2 * d * keys +
    2 * d * model.vocab_size;
  return { forward, total: 3 * forward };
}

export function memory(config, microBatch, onCpu, constants) {
  const { model, train, optim } = config;
  const tokens = microBatch * model.context;
  const groups = parameterGroups(model);
  const a = train.dtype === "bf16" ? 2 : 4;
  const d = model.d_model;

  const fp32Rows = onCpu ? 8 * d : 4 * d;
  const norm = fp32Rows + 4 + a * d;
  const qkNorms = model.qk_norm ? 2 * (fp32Rows + 4 * model.n_heads) : 0;
  const keepsWeights = onCpu && a === 2 && model.context <= constants.short_context;
  const row = keepsWeights ? a * model.context : 4;
  const block = 2 * norm + qkNorms + 4 * a * d + model.n_heads * row + 4 * a * model.d_ff;
  const logits = 4 * (optim.z_loss ? 5 : 4) * model.vocab_size;
  const freed = logits - 4 * model.vocab_size;
  const blocks = train.recompute
    ? model.n_layers * a * d + Math.max(0, block - freed)
    : model.n_layers * block;

  const adamw = groups.total - (optim.name === "muon" ? groups.matrices : 0);
  const weights = 4 * groups.total;
  const casts = a === 2 ? 2 * (groups.matrices + model.vocab_size * d) : 0;
  const optimizer = 8 * adamw + 4 * (groups.total - adamw);
  const total = weights + casts + weights + optimizer + tokens * (blocks + norm) + tokens * logits;
  return { weights, optimizer, total };
}

export function cpuMicroBatch(config, constants) {
  let size = config.train.batch_sequences;
  const values = config.model.context * config.model.d_model;
  while (size > 1 && size * values > constants.cpu_micro_batch_values) {
    size = Math.ceil(size / 2);
  }
  return size;
}

export function fittingMicroBatch(config, memoryGb, constants) {
  const room = constants.usable * (memoryGb * GIGA - constants.reserved_bytes);
  let size = config.train.batch_sequences;
  while (memory(config, size, false, constants).total > room) {
    if (size === 1) return 0;
    size = Math.ceil(size / 2);
  }
  return size;
}

// ---- x1.scaling

export function lawLoss(law, N, D) {
  return law.E + law.A * N ** -law.alpha + law.B * D ** -law.beta;
}

export function optimalParameters(law, C, constants) {
  const budget = C / constants.flops_per_parameter_token;
  const ratio = (law.alpha * law.A) / (law.beta * law.B);
  return (ratio * budget ** law.beta) ** (1 / (law.alpha + law.beta));
}

export function overtrainingNats(law, N, C, constants) {
  const at = (n) => lawLoss(law, n, C / (constants.flops_per_parameter_token * n));
  return at(N) - at(optimalParameters(law, C, constants));
}

// ---- x1.money

export function roundUsd(amount) {
  const size = Math.abs(amount);
  return 0 < size && size < 0.01 ? significant(amount, 2) : round(amount, 2);
}

export function usd(amount) {
  const rounded = roundUsd(amount);
  const size = Math.abs(rounded);
  const digits = 0 < size && size < 0.01 ? fixed(size, 12).replace(/0+$/, "") : fixed(size, 2);
  return `${rounded < 0 ? "-" : ""}$${digits}`;
}

export function rateText(value) {
  return round(value, 2) === round(value, 4) ? fixed(value, 2) : fixed(value, 4);
}

function hoursText(value) {
  return value >= 1 ? fixed(value, 2) : withoutZeros(fixed(significant(value), 12));
}

export function ceilHours(hours) {
  return Math.ceil(round(hours * 100, 6)) / 100;
}

export function electricityUsd(hours, watts, tariff) {
  return ((hours * watts) / 1000) * tariff;
}

export function ageDays(price, today) {
  return Math.round((Date.parse(today) - Date.parse(price.date)) / 86_400_000);
}

// `text` is the value as Python prints it: a float of 5 is "5.0".
export function checkPositive(name, value, text, words) {
  if (value > 0) return;
  throw new InputError(fill(words["money.positive"], { name, value: text }));
}

export function rentedSentence(machine, hours, price, budget, other, staleDays) {
  hours = ceilHours(hours);
  price = round(price, 4);
  other = round(other, 2);
  const cost = roundUsd(hours * price + other);
  budget = round(budget, 2);
  const buffer = round(budget - cost, 2);
  return { label: machine.label, hours, cost, budget, buffer, price, other, staleDays };
}

export function ownSentence(machine, hours, watts, tariff, budget) {
  hours = hours >= 1 ? round(hours, 2) : significant(hours);
  watts = watts >= 100 ? round(watts) : significant(watts);
  tariff = round(tariff, 4);
  const cost = roundUsd(electricityUsd(hours, watts, tariff));
  budget = round(budget, 2);
  const buffer = round(budget - cost, 2);
  return { label: machine.label, hours, cost, budget, buffer, watts, tariff };
}

export function writeCostSentence(cost, words) {
  const say = (key, values) => fill(words[`money.${key}`], values);
  const common = { hardware: cost.label, hours: hoursText(cost.hours), cost: usd(cost.cost) };
  const machine =
    cost.price === undefined
      ? say("own", { ...common, watts: general(cost.watts), tariff: rateText(cost.tariff) })
      : say("rented", {
          ...common,
          count: 1,
          price: rateText(cost.price),
          other: cost.other ? say("other", { usd: usd(cost.other) }) : "",
        });
  const stale = cost.staleDays ? say("stale", { days: cost.staleDays }) : "";
  const verdict = say(cost.buffer >= 0 ? "acceptable" : "not_acceptable", {
    buffer: usd(Math.abs(cost.buffer)),
  });
  return `${stale}${machine} ${say("budget", { budget: usd(cost.budget) })} ${verdict}`;
}
