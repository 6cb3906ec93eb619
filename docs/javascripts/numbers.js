// Numbers as the package reads and writes them: Python's rounding and format(), in JavaScript.
//
// Both languages hold the same doubles and print exact decimals; they part where a number lies
// halfway between two (Python takes the even one) and in how they write exponents.

// What a reader typed cannot be computed with; `message` is the sentence to show.
export class InputError extends Error {}

// The number rounded to `digits` decimals, as text: Python's format(value, ".2f").
export function fixed(value, digits) {
  if (Math.abs(value) >= 1e21) return BigInt(value) + (digits ? `.${"0".repeat(digits)}` : "");
  const exact = Math.abs(value).toFixed(Math.min(100, digits + 60));
  const text = halfToEven(exact, exact.indexOf(".") + 1 + digits, Math.abs(value).toFixed(digits));
  return (value < 0 || Object.is(value, -0) ? "-" : "") + text;
}

// `rounded` is `exact` cut at `cut`, a half rounded up; the same with a half rounded to even.
function halfToEven(exact, cut, rounded) {
  const kept = exact.slice(0, cut).replace(/\.$/, "");
  const isHalf = /^5?0*$/.test(exact.slice(cut)) && exact[cut] === "5";
  return isHalf && "02468".includes(kept.at(-1)) ? kept : rounded;
}

// Python's round(value, digits).
export function round(value, digits = 0) {
  return Math.abs(value) < 1e21 ? Number(fixed(value, digits)) : value;
}

// Mantissa and exponent of the number rounded to so many significant digits.
function scientific(value, digits) {
  const exact = Math.abs(value).toExponential(Math.min(100, digits + 60));
  const [mantissa, exponent] = Math.abs(value).toExponential(digits - 1).split("e");
  const cut = digits > 1 ? digits + 1 : 1;
  const [long] = exact.split("e");
  const text = halfToEven(digits > 1 ? long : long.replace(".", ""), cut, mantissa);
  return [(value < 0 ? "-" : "") + text, Number(exponent)];
}

// Python's format(value, ".3g"); six digits by default, as ":g".
export function general(value, digits = 6) {
  if (value === 0) return "0";
  const [mantissa, exponent] = scientific(value, digits);
  if (exponent < -4 || exponent >= digits) {
    return `${withoutZeros(mantissa)}e${pythonExponent(exponent)}`;
  }
  return withoutZeros(fixed(Number(`${mantissa}e${exponent}`), Math.max(0, digits - 1 - exponent)));
}

// Python's format(value, ".2e").
export function exponential(value, digits) {
  if (value === 0) return `${fixed(0, digits)}e+00`;
  const [mantissa, exponent] = scientific(value, digits + 1);
  return `${mantissa}e${pythonExponent(exponent)}`;
}

// Python's repr of a float: "35.0", "0.35", "1e-05".
export function floatText(value) {
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e16)) {
    const [mantissa, exponent] = value.toExponential().split("e");
    return `${mantissa}e${pythonExponent(Number(exponent))}`;
  }
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
}

// Python's format(value, ",.0f").
export function grouped(value) {
  return fixed(value, 0).replace(/\B(?=(\d{3})+$)/g, ",");
}

export function withoutZeros(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function pythonExponent(exponent) {
  return `${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

// x1.money.significant
export function significant(value, digits = 3) {
  return Number(general(value, digits));
}

// A sentence with its {placeholders} filled; {name:g} is the one format the sentences use.
export function fill(template, values) {
  return template.replace(/\{(\w+)(:g)?\}/g, (_, name, format) =>
    format ? general(values[name]) : String(values[name]),
  );
}

// x1.money.parse_number: "1.10", "1,10", "1,234.50", "5e9".
export function parseNumber(text, words) {
  let plain = text.trim().replaceAll(" ", "").replaceAll("\u202f", "");
  const comma = plain.lastIndexOf(",");
  const point = plain.lastIndexOf(".");
  const count = (mark) => plain.split(mark).length - 1;
  if (comma >= 0 && point >= 0) {
    plain = plain.replaceAll(comma < point ? "," : ".", "");
  } else if (count(",") > 1 || count(".") > 1) {
    plain = plain.replaceAll(",", "").replaceAll(".", "");
  } else if (/^[1-9]\d{0,2},\d{3}$/.test(plain)) {
    const values = { text, point: plain.replace(",", ".") };
    throw new InputError(fill(words["money.ambiguous"], values));
  }
  plain = plain.replace(",", ".");
  const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
  if (!Number.isFinite(value)) throw new InputError(fill(words["money.not_a_number"], { text }));
  return value;
}

// x1.money.parse_count: a whole number, with k, M or B for thousand, million, 10^9.
export function parseCount(text, words) {
  const trimmed = text.trim();
  const scale = { k: 1e3, m: 1e6, b: 1e9 }[trimmed.slice(-1).toLowerCase()];
  return scale
    ? round(parseNumber(trimmed.slice(0, -1), words) * scale)
    : round(parseNumber(text, words));
}
