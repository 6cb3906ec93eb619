// The plan of a run: x1.plan and what it rests on, for the planner's page.
//
// `makePlan` answers with the record that `x1 plan --json` prints, without the hash of the
// configuration and in the page's one language. The functions carry the names of those in the
// package and follow them line by line; every constant comes from the package in `constants`.
// tests/test_planner_page.py holds the two equal.

import { plannedConfig } from "./config.js";
import {
  GIGA, TERA, ageDays, ceilHours, checkPositive, cpuMicroBatch, electricityUsd, fittingMicroBatch,
  lawLoss, memory, ownSentence, parameterGroups, rateText, rentedSentence, roundUsd, tokenFlops,
  usd, writeCostSentence,
} from "./costs.js";
import { InputError, exponential, fill, fixed, floatText, general, grouped } from "./numbers.js";

// ---- x1.predict

const prediction = (value, low, high, basis) => ({ value, low, high, basis });
const exactly = (value, basis) => prediction(value, value, value, basis);
const unknown = (basis) => prediction(null, null, null, basis);

function scaled({ value, low, high, basis }, factor, newBasis = basis) {
  if (value === null) return unknown(newBasis);
  return prediction(value * factor, low * factor, high * factor, newBasis);
}

function spread(value, fraction, say, key, values = {}) {
  const basis = say(key, { percent: fixed(100 * fraction, 0), ...values });
  return prediction(value, value * (1 - fraction), value * (1 + fraction), basis);
}

function peakText(card, dtype) {
  return `${general(card.flops_per_s[dtype] / TERA)} TFLOP/s (${card.label}, ${dtype})`;
}

function predictThroughput(config, asked, say, constants) {
  const { card, name } = config.machine;
  const { dtype } = config.train;
  const { words } = constants;
  const perToken = tokenFlops(config.model).total;
  const peak = card?.flops_per_s[dtype];
  const { mfu, tokens_per_s: typed } = asked;
  if (mfu !== undefined && !(0 < mfu && mfu <= 1)) {
    throw new InputError(fill(words["plan.mfu_range"], { mfu }));
  }
  if (typed !== undefined) {
    checkPositive("--tokens-per-s", typed, floatText(typed), words);
    const implied = card ? (typed * perToken) / peak : 0;
    if (implied > 1) {
      const values = { tokens_per_s: grouped(typed), mfu: fixed(implied, 2), gpu: card.label };
      throw new InputError(fill(words["plan.rate_over_peak"], values));
    }
    return spread(typed, constants.typed_spread, say, "basis.typed_rate");
  }
  if (mfu !== undefined) {
    if (!card) throw new InputError(fill(words["plan.mfu_needs_gpu"], { hardware: name }));
    const values = { mfu: fixed(mfu, 2), peak: peakText(card, dtype) };
    return spread((mfu * peak) / perToken, constants.typed_spread, say, "basis.typed_mfu", values);
  }
  if (card) {
    const [value, low, high] = constants.mfu_guess.map((guess) => (guess * peak) / perToken);
    const [guess, least, most] = constants.mfu_guess.map(floatText);
    const values = { mfu: guess, low: least, high: most, peak: peakText(card, dtype) };
    return prediction(value, low, high, say("basis.guessed_mfu", values));
  }
  return unknown(say("missing.rate", { hardware: name }));
}

function hoursAt(tokens, rate, basis) {
  if (rate.value === null) return unknown(rate.basis);
  const [value, low, high] = [rate.value, rate.high, rate.low].map((r) => tokens / r / 3600);
  return prediction(value, low, high, basis);
}

function evaluationTokens({ train, evaluate }) {
  return (1 + Math.ceil(train.steps / evaluate.every_steps)) * evaluate.tokens;
}

function tokenizerEntry({ data, model }, constants) {
  return constants.tokenizers.find(
    (entry) =>
      ["source", "dataset", "tokenizer"].every((name) => entry[name] === data[name]) &&
      entry.vocab_size === model.vocab_size,
  );
}

// Whether the published laws speak of this data: web text under BPE.
export function hasLaw({ source, tokenizer }) {
  return source === "dataset" && tokenizer !== "bytes";
}

function predictLoss(config, asked, say, constants) {
  if (config.data.source === "verbs") return measuredLoss(config, asked, say, constants);
  if (!hasLaw(config.data)) {
    const missing = unknown(say("missing.law_for_text"));
    return [missing, missing];
  }
  const N = parameterGroups(config.model).total;
  const losses = constants.laws.map((law) => lawLoss(law, N, config.tokens));
  const error = constants.transfer_error;
  const [hoffmann, besiroglu] = losses.map((loss) => fixed(loss, 2));
  const nats = prediction(
    losses.reduce((sum, loss) => sum + loss) / losses.length,
    Math.min(...losses) - error,
    Math.max(...losses) + error,
    say("basis.laws", { hoffmann, besiroglu, error: fixed(error, 2) }),
  );
  return [nats, bitsPerByte(nats, config, say, constants)];
}

// The form changes the shape and the steps; anything else of the recipe is the preset's own.
function measuredLoss(config, asked, say, constants) {
  const preset = constants.presets[asked.preset];
  const own =
    config.train.steps === preset.train.steps &&
    Object.keys(preset.model).every((field) => config.model[field] === preset.model[field]);
  if (!preset.measured_loss || !own) {
    const missing = unknown(say("missing.measured_loss"));
    return [missing, missing];
  }
  const basis = say("basis.measured_loss", { n: preset.measured_loss.runs });
  return [preset.measured_loss.nats, preset.measured_loss.bits].map((numbers) =>
    prediction(...numbers, basis),
  );
}

function bitsPerByte(nats, config, say, constants) {
  const entry = tokenizerEntry(config, constants);
  if (entry) {
    const bytes = entry.bytes_per_token;
    const basis = say("basis.bits_per_byte", { bytes: fixed(bytes, 3) });
    return scaled(nats, 1 / (Math.LN2 * bytes), basis);
  }
  const [value, low, high] = constants.assumed_bytes_per_token;
  const [middle, least, most] = constants.assumed_bytes_per_token.map(floatText);
  const basis = say("basis.assumed_bytes_per_token", { value: middle, low: least, high: most });
  return prediction(
    nats.value / value / Math.LN2,
    nats.low / high / Math.LN2,
    nats.high / low / Math.LN2,
    basis,
  );
}

function predictMemory(config, say, constants) {
  const { card } = config.machine;
  const configured = config.train.micro_batch;
  let fits;
  let basis;
  if (configured !== "auto") {
    fits = Math.min(configured, config.train.batch_sequences);
    basis = say("basis.configured_micro_batch");
  } else if (card) {
    fits = fittingMicroBatch(config, card.memory_gb, constants);
    basis = say("basis.fitting_micro_batch", { gb: general(card.memory_gb) });
  } else {
    fits = cpuMicroBatch(config, constants);
    basis = say("basis.cpu_micro_batch");
  }
  const estimate = memory(config, Math.max(fits, 1), !card, constants).total;
  return [exactly(fits, basis), exactly(estimate, say("basis.memory"))];
}

function checkpointBytes(config, constants) {
  const { weights, optimizer } = memory(config, 1, false, constants);
  return weights + optimizer;
}

function predictCheckpoints(config, training, say, constants) {
  const every = config.checkpoint;
  const byStep =
    Math.ceil(config.train.steps / every.every_steps) +
    every.milestones.filter((step) => step % every.every_steps > 0).length;
  const byClock = Math.ceil(((training.value ?? 0) * 60) / every.every_minutes);
  const written = Math.max(byStep, byClock);
  const kept = Math.min(written, every.keep + 1 + every.milestones.length);
  const minutes = general(every.every_minutes);
  const basis = say("basis.checkpoints", { steps: every.every_steps, minutes });
  return {
    checkpoints_written: prediction(written, byStep, byStep + byClock, basis),
    checkpoints_kept: exactly(kept, say("basis.checkpoints_kept")),
    checkpoint_bytes: exactly(checkpointBytes(config, constants), say("basis.checkpoint_bytes")),
  };
}

function dataHours(config, say, constants) {
  const entry = tokenizerEntry(config, constants);
  if (!entry && config.data.source !== "dataset") return unknown(say("missing.tokenizer_speed"));
  const speed = entry ? entry.tokens_per_s : constants.assumed_tokenizer_tokens_per_s;
  const hours = (config.data.train_tokens || config.tokens) / speed / 3600;
  const key = entry ? "basis.tokenizer" : "basis.assumed_tokenizer";
  return prediction(hours, 0.5 * hours, 2 * hours, say(key, { speed: grouped(speed) }));
}

function predictLadder(config, asked, rate, say, constants) {
  const found = constants.ladders.find(
    ({ preset, recompute, shape }) =>
      preset === asked.preset &&
      recompute === config.train.recompute &&
      Object.keys(shape).every((field) => shape[field] === config.model[field]),
  );
  if (!found) return exactly(0, say("basis.no_ladder"));
  if (rate.value === null) return unknown(rate.basis);
  const { card, name } = config.machine;
  const work = found.work[card ? name.replace(/^own-/, "") : name];
  const start = constants.ladder_start_hours.map((hours) => work.runs * hours);
  const basis = say(card ? "basis.ladder" : "basis.ladder_on_cpu", {
    ...work,
    flops: exponential(work.tokens * tokenFlops(config.model).total, 2),
    low: fixed(work.slowest, 2),
    high: fixed(work.fastest, 2),
    seconds: fixed(3600 * constants.ladder_start_hours[0], 0),
  });
  return prediction(
    work.slowed_tokens / rate.value / 3600 + start[0],
    work.tokens / rate.high / 3600 + start[1],
    (constants.ladder_slower * work.slowed_tokens) / rate.low / 3600 + start[2],
    basis,
  );
}

// ---- x1.plan

function billedLines(config, offer, run, ladder, keptBytes, say, constants) {
  const { machine } = config;
  const tariff = config.money.tariff_usd_per_kwh;
  const watts = config.money.watts || machine.watts;
  const line = (item, hours, usd, clock) => ({ item, on_the_clock: clock, hours, usd });

  const billed = (hours) => {
    if (hours.value === null) return [hours, hours];
    if (machine.own) {
      const basis = say("basis.electricity", { watts: general(watts), tariff: rateText(tariff) });
      return [hours, scaled(hours, electricityUsd(1, watts, tariff), basis)];
    }
    const whole = prediction(
      ceilHours(hours.value), ceilHours(hours.low), ceilHours(hours.high), hours.basis,
    );
    if (!offer) return [whole, unknown(say("missing.price", { hardware: machine.name }))];
    const values = { price: rateText(offer.usd_per_hour), date: offer.date };
    return [whole, scaled(whole, offer.usd_per_hour, say("basis.rental", values))];
  };

  const setUp = machine.own
    ? prediction(...constants.start_hours, say("basis.start"))
    : prediction(...constants.set_up_hours, say("basis.set_up"));
  let storage = exactly(0, say("basis.own_disk"));
  if (!machine.own) {
    const dataBytes = config.tokens * (config.model.vocab_size <= 65_536 ? 2 : 4);
    const gigabytes = (dataBytes + keptBytes) / GIGA;
    const { usd_per_gb_month: rate, source } = constants.storage;
    const days = constants.storage_days;
    const cost = ((gigabytes * days) / 30) * rate;
    const values = { gb: fixed(gigabytes, 1), days, rate: rateText(rate), source };
    storage = prediction(cost, 0.5 * cost, 2 * cost, say("basis.storage", values));
  }
  const nothing = exactly(0, say("basis.off_the_clock"));
  return [
    line("set_up", ...billed(setUp), true),
    line("data", dataHours(config, say, constants), nothing, false),
    line("ladder", ...billed(ladder), true),
    line("run", ...billed(run), true),
    line("storage", exactly(0, storage.basis), storage, false),
  ];
}

function sum(lines, field, basis) {
  const unknownLine = lines.find((entry) => entry[field].value === null);
  if (unknownLine) return unknown(unknownLine[field].basis);
  const total = (part) => lines.reduce((so_far, entry) => so_far + entry[field][part], 0);
  return prediction(total("value"), total("low"), total("high"), basis);
}

function costSentence(config, offer, hours, lines, today, constants) {
  if (hours.value === null) return null;
  const { machine, money } = config;
  if (machine.own) {
    const watts = money.watts || machine.watts;
    return ownSentence(machine, hours.value, watts, money.tariff_usd_per_kwh, money.lab_budget_usd);
  }
  if (!offer) return null;
  const storage = lines.find((entry) => entry.item === "storage").usd.value;
  const age = ageDays(offer, today);
  const staleDays = age > constants.stale_after_days ? age : 0;
  const { usd_per_hour: price } = offer;
  return rentedSentence(machine, hours.value, price, money.lab_budget_usd, storage, staleDays);
}

// `asked`: preset, and where they differ from it: shape (fields of the model), recompute, hardware,
// price, tokens, mfu, tokens_per_s, watts, tariff_usd_per_kwh. `today` is YYYY-MM-DD. Throws an
// InputError with the sentence the package would say.
export function makePlan(asked, today, constants) {
  const { words } = constants;
  const say = (key, values = {}) => fill(words[`plan.${key}`], values);
  const config = plannedConfig(asked, today, constants);
  const { machine, model, money, train } = config;
  let offer = machine.own ? null : machine.offer;
  if (!machine.own && money.price_usd_per_hour !== null) {
    const { price_usd_per_hour: usd_per_hour, price_date: date } = money;
    offer = { usd_per_hour, date, provider: "", kind: "typed", source: "" };
  }
  const perToken = tokenFlops(model);
  const parameters = parameterGroups(model);

  const rate = predictThroughput(config, asked, say, constants);
  const training = hoursAt(config.tokens, rate, say("basis.training_hours"));
  const scored = (evaluationTokens(config) * perToken.forward) / perToken.total;
  const run = hoursAt(config.tokens + scored, rate, say("basis.run_hours"));
  const [microBatch, memoryBytes] = predictMemory(config, say, constants);
  const checkpoints = predictCheckpoints(config, training, say, constants);
  const keptBytes = checkpoints.checkpoints_kept.value * checkpoints.checkpoint_bytes.value;
  const ladder = predictLadder(config, asked, rate, say, constants);
  const lines = billedLines(config, offer, run, ladder, keptBytes, say, constants);
  const clock = lines.filter((entry) => entry.on_the_clock);
  const hours = sum(clock, "hours", say("basis.clock"));
  const dollars = sum(lines, "usd", say("basis.dollars"));
  const [nats, bits] = predictLoss(config, asked, say, constants);
  const sentence = costSentence(config, offer, hours, lines, today, constants);

  const watts = money.watts || machine.watts;
  const wattsBasis = money.watts ? "typed_watts" : machine.card ? "rated_watts" : "assumed_watts";
  const energy = scaled(hours, watts / 1000, say(`basis.${wattsBasis}`, { watts: general(watts) }));
  let utilisation = unknown(say("missing.peak"));
  if (machine.card) {
    const basis = say("basis.mfu", { peak: peakText(machine.card, train.dtype) });
    utilisation = scaled(rate, perToken.total / machine.card.flops_per_s[train.dtype], basis);
  }

  const planUsd = sentence ? sentence.cost : null;
  const amounts = {
    plan_usd: planUsd,
    lab_budget_usd: money.lab_budget_usd,
    reserve_usd: null,
    alert_line_usd: null,
    ceiling_usd: money.ceiling_usd,
  };
  if (planUsd !== null && dollars.high !== null) {
    const alertLine = planUsd * (1 + constants.alert_fraction);
    amounts.alert_line_usd = roundUsd(alertLine);
    amounts.reserve_usd = roundUsd(Math.min(money.ceiling_usd, Math.max(alertLine, dollars.high)));
  }
  const age = offer && ageDays(offer, today);
  const stale = Boolean(offer && age > constants.stale_after_days);
  const found = { config, offer, age, stale, rate, microBatch, planUsd, today };
  const reasons = reasonsAgainst(found, say, constants);
  return {
    date: today,
    preset: asked.preset,
    hardware: {
      name: machine.name,
      label: machine.label,
      count: 1,
      own: machine.own,
      watts,
      peak_source: machine.card ? machine.card.source : null,
    },
    price: offer && { ...offer, age_days: age },
    model: {
      parameters: parameters.total,
      non_embedding_parameters: parameters.nonEmbedding,
      flops_per_token: { causal: perToken.total, full: tokenFlops(model, "full").total },
      six_n_flops_per_token: 6 * parameters.total,
    },
    tokens: config.tokens,
    tokens_per_parameter: config.tokens / parameters.total,
    steps: train.steps,
    batch_tokens: config.batchTokens,
    flops: config.tokens * perToken.total,
    predictions: {
      tokens_per_s: rate,
      mfu: utilisation,
      training_hours: training,
      hours,
      dollars,
      kwh: energy,
      memory_bytes: memoryBytes,
      micro_batch: microBatch,
      ...checkpoints,
      loss_nats_per_token: nats,
      bits_per_byte: bits,
    },
    lines,
    money: amounts,
    sentence: sentence && writeCostSentence(sentence, words),
    stale,
    launchable: !reasons.length,
    reasons,
  };
}

function reasonsAgainst(plan, say, constants) {
  const { config, offer, age, stale, rate, microBatch, planUsd, today } = plan;
  const { machine, money } = config;
  const found = [];
  const add = (reason, values = {}) =>
    found.push({ reason, text: say(`reason.${reason}`, values) });
  if (rate.value === null) add("no_rate");
  if (!machine.own && !offer) add("no_price", { hardware: machine.name });
  if (offer && age < 0) add("future_price", { date: offer.date, today });
  if (stale) add("stale_price", { days: age, limit: constants.stale_after_days });
  if (microBatch.value === 0) add("no_memory", { hardware: machine.label });
  if (planUsd !== null && planUsd > money.ceiling_usd) {
    add("over_ceiling", { plan: usd(planUsd), ceiling: usd(money.ceiling_usd) });
  } else if (planUsd !== null && planUsd > money.lab_budget_usd) {
    add("over_budget", { plan: usd(planUsd), budget: usd(money.lab_budget_usd) });
  }
  return found;
}
