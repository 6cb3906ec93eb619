// The configuration a plan is made of, and what it refuses: x1.config and x1.plan.planned_config.

import { checkPositive } from "./costs.js";
import { InputError, fill, floatText, round } from "./numbers.js";

const SHAPE = ["vocab_size", "n_layers", "n_heads", "d_model", "d_ff", "context"];

// The preset with the shape, machine, price and tokens that were asked for.
export function plannedConfig(asked, today, constants) {
  const { words } = constants;
  const preset = constants.presets[asked.preset];
  const config = {
    ...preset,
    model: { ...preset.model, ...asked.shape },
    train: { ...preset.train, recompute: asked.recompute ?? preset.train.recompute },
    money: { ...preset.money },
  };
  for (const field of ["watts", "tariff_usd_per_kwh"]) {
    if (asked[field] !== undefined) config.money[field] = asked[field];
  }
  checkShape(config, constants);
  for (const field of ["watts", "tariff_usd_per_kwh"]) {
    const value = config.money[field];
    if (value !== null) checkBound("money", field, value, constants);
  }

  const machine = constants.hardware[asked.hardware ?? config.money.hardware];
  if (machine.name !== config.money.hardware) {
    const unpriced = { hardware: machine.name, price_usd_per_hour: null, price_date: "" };
    Object.assign(config.money, unpriced); // a price belongs to the machine it was typed for
  }
  if (asked.price !== undefined) {
    if (machine.own) {
      throw new InputError(fill(words["plan.price_of_own"], { hardware: machine.name }));
    }
    checkPositive("--price-usd-per-hour", asked.price, floatText(asked.price), words);
    Object.assign(config.money, { price_usd_per_hour: asked.price, price_date: today });
  }
  const batchTokens = config.train.batch_sequences * config.model.context;
  if (asked.tokens !== undefined) {
    checkPositive("--tokens", asked.tokens, String(asked.tokens), words);
    config.train = { ...config.train, steps: Math.ceil(asked.tokens / batchTokens) };
    if (config.data.train_tokens) {
      config.data = { ...config.data, train_tokens: config.train.steps * batchTokens };
    }
  }
  return { ...config, machine, batchTokens, tokens: config.train.steps * batchTokens };
}

function checkBound(section, field, value, constants) {
  const name = `${section}.${field}`;
  const { ge, gt } = constants.bounds[name];
  if (ge === undefined ? value > gt : value >= ge) return;
  const [rule, bound] =
    ge === undefined ? ["greater than", floatText(gt)] : ["greater than equal", ge];
  const values = { field: name, value, rule, bound };
  throw new InputError(fill(constants.words["config.bound"], values));
}

function checkShape({ model, data }, constants) {
  const { words } = constants;
  for (const field of SHAPE) checkBound("model", field, model[field], constants);
  const { d_model, n_heads } = model;
  const refuse = (field, key, values) => {
    const reason = fill(words[key], values);
    throw new InputError(fill(words["config.impossible"], { field, reason }));
  };
  if (d_model % n_heads || Math.floor(d_model / n_heads) % 2) {
    const even = 2 * n_heads;
    const nearest = Math.max(even, round(d_model / even) * even);
    refuse("model", "config.d_model", { d_model, n_heads, nearest });
  }
  if (data.tokenizer === "bytes" && model.vocab_size !== 257) {
    refuse("", "config.bytes_vocabulary", { value: model.vocab_size });
  }
}
