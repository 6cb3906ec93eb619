"""The generated Spanish-English verb corpus: text whose entropy is known in closed form.

A document is K lines, each one sentence in both languages, the sentences independent:

    nosotros hablamos para lemi y ba = we spoke for ledmip and bar

A sentence is derived by drawing a person, a verb, a tense and one or more nouns. 20 verbs x
5 tenses x 3 persons are 300 cells, each with a Spanish and an English form. A noun is a rank
k = 1, 2, 3, ... without bound, drawn from the zeta law p(k) = k^-s / zeta(s) and spelled one
syllable per digit in each language. Every byte follows from the derivation and every line has
only one derivation, so the entropy of the draws is the floor of every model.

What the Spanish half leaves open the English half settles, and those nats are counted there.
Eleven Spanish forms leave something open: *nosotros* in the present or preterite of hablar,
buscar, llegar, pensar, vivir, escribir, dormir and pedir; and *fui*, *fue*, *fuimos*, the
preterite of both ser and ir.

The Spanish half of a line ends with its "="; the English half is the rest, newline included.
The end-of-document token stands where the next Spanish half would begin and carries the
decision to stop, so its nats are the Spanish half's.
"""

import math
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise, product

import numpy as np

TENSES = ("present", "preterite", "imperfect", "future", "conditional")
PERSONS = ("yo", "él", "nosotros")
ENGLISH_PERSONS = ("I", "he", "we")

# Regular endings for yo, él, nosotros. Future and conditional go on the whole infinitive.
ENDINGS = {
    ("ar", "present"): ("o", "a", "amos"),
    ("er", "present"): ("o", "e", "emos"),
    ("ir", "present"): ("o", "e", "imos"),
    ("ar", "preterite"): ("é", "ó", "amos"),
    ("er", "preterite"): ("í", "ió", "imos"),
    ("ir", "preterite"): ("í", "ió", "imos"),
    ("ar", "imperfect"): ("aba", "aba", "ábamos"),
    ("er", "imperfect"): ("ía", "ía", "íamos"),
    ("ir", "imperfect"): ("ía", "ía", "íamos"),
}
FUTURE = ("é", "á", "emos")
CONDITIONAL = ("ía", "ía", "íamos")
STRONG_PRETERITE = ("e", "o", "imos")  # unstressed: tuve, tuvo, tuvimos


@dataclass(frozen=True)
class Verb:
    """A verb in both languages: what its forms need beyond the regular rules.

    `stressed` replaces the stem where the stress falls on it (present yo, él); `strong` is the
    stem of an irregular preterite, `future` that of future and conditional. `whole` gives the
    three forms of a tense outright, `single` one form.
    """

    spanish: str
    english: str
    past: str = ""
    stressed: str = ""
    strong: str = ""
    future: str = ""
    whole: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    single: dict[tuple[str, str], str] = field(default_factory=dict)


FUI = ("fui", "fue", "fuimos")  # the preterite of ser and of ir

# fmt: off
VERBS = (
    Verb("hablar", "speak", "spoke"),
    Verb("buscar", "seek", "sought", single={("preterite", "yo"): "busqué"}),
    Verb("llegar", "arrive", single={("preterite", "yo"): "llegué"}),
    Verb("pensar", "think", "thought", stressed="piens"),
    Verb("estar", "be", strong="estuv", whole={"present": ("estoy", "está", "estamos")}),
    Verb("dar", "give", "gave", single={("present", "yo"): "doy"},
         whole={"preterite": ("di", "dio", "dimos")}),
    Verb("comer", "eat", "ate"),
    Verb("creer", "believe", whole={"preterite": ("creí", "creyó", "creímos")}),
    Verb("tener", "have", "had", stressed="tien", strong="tuv", future="tendr",
         single={("present", "yo"): "tengo"}),
    Verb("hacer", "make", "made", strong="hic", future="har",
         single={("present", "yo"): "hago", ("preterite", "él"): "hizo"}),
    Verb("querer", "want", stressed="quier", strong="quis", future="querr"),
    Verb("ver", "see", "saw", single={("present", "yo"): "veo"},
         whole={"preterite": ("vi", "vio", "vimos"), "imperfect": ("veía", "veía", "veíamos")}),
    Verb("ser", "be", whole={"present": ("soy", "es", "somos"), "preterite": FUI,
                             "imperfect": ("era", "era", "éramos")}),
    Verb("vivir", "live"),
    Verb("escribir", "write", "wrote"),
    Verb("decir", "say", "said", stressed="dic", strong="dij", future="dir",
         single={("present", "yo"): "digo"}),
    Verb("dormir", "sleep", "slept", stressed="duerm", single={("preterite", "él"): "durmió"}),
    Verb("pedir", "ask", stressed="pid", single={("preterite", "él"): "pidió"}),
    Verb("venir", "come", "came", stressed="vien", strong="vin", future="vendr",
         single={("present", "yo"): "vengo"}),
    Verb("ir", "go", "went", whole={"present": ("voy", "va", "vamos"), "preterite": FUI,
                                    "imperfect": ("iba", "iba", "íbamos")}),
)
# fmt: on


def spanish_form(verb: Verb, tense: str, person: str) -> str:
    """The Spanish form without its pronoun: hablar, future, nosotros -> hablaremos."""
    who = PERSONS.index(person)
    stem, group = verb.spanish[:-2], verb.spanish[-2:]
    if (tense, person) in verb.single:
        return verb.single[tense, person]
    if tense in verb.whole:
        return verb.whole[tense][who]
    if tense == "future":
        return (verb.future or verb.spanish) + FUTURE[who]
    if tense == "conditional":
        return (verb.future or verb.spanish) + CONDITIONAL[who]
    if tense == "preterite" and verb.strong:
        return verb.strong + STRONG_PRETERITE[who]
    if tense == "present" and person != "nosotros" and verb.stressed:
        stem = verb.stressed
    return stem + ENDINGS[group, tense][who]


def english_form(verb: Verb, tense: str, person: str) -> str:
    """The English form without its pronoun: have, imperfect -> used to have."""
    who = PERSONS.index(person)
    base = verb.english
    match tense:
        case "imperfect":
            return f"used to {base}"
        case "future":
            return f"will {base}"
        case "conditional":
            return f"would {base}"
    if base == "be":
        return {"present": ("am", "is", "are"), "preterite": ("was", "was", "were")}[tense][who]
    if tense == "preterite":
        return verb.past or base + ("d" if base.endswith("e") else "ed")
    if person != "él":
        return base
    return {"have": "has", "go": "goes"}.get(base, base + "s")


# A cell is a (verb, tense, person); its form in each language, pronoun first.
CELLS = tuple(product(VERBS, TENSES, PERSONS))
SPANISH = tuple(f"{p} {spanish_form(v, t, p)}" for v, t, p in CELLS)
ENGLISH = tuple(f"{ENGLISH_PERSONS[PERSONS.index(p)]} {english_form(v, t, p)}" for v, t, p in CELLS)
CELL = {pair: cell for cell, pair in enumerate(zip(SPANISH, ENGLISH, strict=True))}

# The digits of a rank. A syllable's first letter decides the rest of it in both languages, so
# byte-pair encoding merges whole syllables before it merges across them, alike on both sides.
SYLLABLES = (
    ("ba", "bar"), ("ce", "cen"), ("di", "dim"), ("fo", "fon"), ("gu", "gus"), ("ja", "jat"),
    ("le", "led"), ("mi", "mip"), ("no", "nor"), ("pu", "puk"), ("ra", "ras"), ("so", "som"),
    ("ti", "tib"), ("ve", "vel"), ("yu", "yun"), ("zo", "zot"),
)  # fmt: skip
BASE = len(SYLLABLES)
DIGITS = {spanish: digit for digit, (spanish, _) in enumerate(SYLLABLES, start=1)}


@lru_cache(maxsize=1 << 17)
def spell(rank: int, dictionary: bool = False) -> tuple[str, str]:
    """A noun's spelling (Spanish, English): its rank in bijective base 16, a syllable a digit.

    Bijective: digits 1 to 16, no zero, so ranks and strings of syllables match one to one. With
    `dictionary`, the English spells another rank of as many syllables instead, by a one-to-one
    scramble: syllables no longer translate, and each noun has to be learnt by itself.
    """
    spanish = digits(rank)
    english = digits(scramble(rank, len(spanish))) if dictionary else spanish
    return "".join(SYLLABLES[i][0] for i in spanish), "".join(SYLLABLES[i][1] for i in english)


def digits(rank: int) -> list[int]:
    """Bijective base-16 digits less one, most significant first; one list for each rank."""
    reverse = []
    while rank:
        rank, digit = divmod(rank - 1, BASE)
        reverse.append(digit)
    return reverse[::-1]


def scramble(rank: int, length: int) -> int:
    """A fixed one-to-one map of the 16^length ranks that have `length` syllables."""
    size, bits = BASE**length, 4 * length
    first = (size - 1) // (BASE - 1)
    x = rank - first
    for _ in range(3):  # an odd factor and a shift by half the bits can both be undone
        x = x * 0x9E3779B97F4A7C15 % size
        x ^= x >> bits // 2
    return first + x


def rank_of(spanish: str) -> int:
    """The rank a Spanish noun spells, the inverse of `spell`; 0 if no rank spells it."""
    rank = 0
    for start in range(0, len(spanish), 2):
        digit = DIGITS.get(spanish[start : start + 2])
        if digit is None:
            return 0
        rank = rank * BASE + digit
    return rank


def render(cell: int, spanish: list[str], english: list[str]) -> str:
    """One line of a document from its cell and its nouns, newline included."""
    return (
        f"{SPANISH[cell]} para {' y '.join(spanish)} = "
        f"{ENGLISH[cell]} for {' and '.join(english)}\n"
    )


@dataclass(frozen=True)
class Setting:
    """The law of the draws. Weights need not sum to one."""

    zeta_exponent: float
    sentence_weights: tuple[float, ...]  # of 1, 2, ... sentences in a document
    noun_weights: tuple[float, ...]  # of 1, 2, ... nouns in a sentence
    verb_weights: tuple[float, ...] = (1.0,) * len(VERBS)
    tense_weights: tuple[float, ...] = (1.0,) * len(TENSES)
    person_weights: tuple[float, ...] = (1.0,) * len(PERSONS)
    dictionary: bool = False  # nouns translate one by one, not syllable by syllable


# Chosen from measurements: docs/measured/corpus-settings.json.
SETTINGS = {
    # Short documents and a light tail: learnt to the floor within a million tokens.
    "rehearsal": Setting(zeta_exponent=2.0, sentence_weights=(1, 1, 1, 1), noun_weights=(1,)),
    # A heavy tail of nouns that have to be learnt one by one: the loss falls from 0.5M to 1M
    # tokens and from 23k to 226k parameters.
    "scaling": Setting(
        zeta_exponent=1.4, sentence_weights=(1, 1, 1, 1), noun_weights=(0, 1), dictionary=True
    ),
}


def zeta(s: float, start: int = 1) -> float:
    """Sum of k^-s over k >= start, s > 1, to about 1e-15 relative (Euler-Maclaurin)."""
    n = max(start, 1000)
    head = np.arange(start, n, dtype=np.float64)
    tail = n ** (1 - s) / (s - 1) + n**-s / 2 + s * n ** (-s - 1) / 12
    return float((head**-s).sum() + tail - s * (s + 1) * (s + 2) * n ** (-s - 3) / 720)


def noun_nats(s: float) -> float:
    """Entropy of a noun, s * E[ln k] + ln zeta(s)."""
    n = 1000
    head = np.arange(1, n, dtype=np.float64)
    log_n = math.log(n)
    # Euler-Maclaurin for sum of ln(k) k^-s: integral, half the first term, first derivative.
    tail = n ** (1 - s) * (log_n / (s - 1) + 1 / (s - 1) ** 2)
    tail += log_n * n**-s / 2 - (1 - s * log_n) * n ** (-s - 1) / 12
    mean_log = (float((np.log(head) * head**-s).sum()) + tail) / zeta(s)
    return s * mean_log + math.log(zeta(s))


def noun_syllables(s: float) -> float:
    """Expected syllables of a noun: the sum over m of the probability of at least m."""
    total, first = 0.0, 1  # first: the least rank of m syllables
    for _ in range(40):
        total += (last := zeta(s, first))
        first = first * BASE + 1
    ratio = BASE ** (1 - s)  # from here on the terms are geometric to 1e-15
    return (total + last * ratio / (1 - ratio)) / zeta(s)


# Ranks below TABLE are drawn from a table; those above, one by one.
TABLE = 1 << 16


@dataclass(frozen=True)
class _Law:
    """A setting's probabilities, worked out once."""

    sentences: np.ndarray  # (max sentences,) probability of 1, 2, ...
    nouns: np.ndarray  # (max nouns,)
    cells: np.ndarray  # (300,)
    ranks: np.ndarray  # (TABLE,) of ranks 1 .. TABLE - 1, then of all above
    spanish: dict[str, float]  # probability of a Spanish form, all its cells together
    log_zeta: float


@cache
def _law(setting: Setting) -> _Law:
    def normalised(weights: tuple[float, ...]) -> np.ndarray:
        return np.array(weights) / math.fsum(weights)

    verbs, tenses, persons = map(
        normalised, (setting.verb_weights, setting.tense_weights, setting.person_weights)
    )
    cells = np.einsum("v,t,p->vtp", verbs, tenses, persons).ravel()  # (300,), the order of CELLS
    spanish: dict[str, float] = {}
    for form, probability in zip(SPANISH, cells.tolist(), strict=True):
        spanish[form] = spanish.get(form, 0.0) + probability
    s = setting.zeta_exponent
    ranks = np.append(np.arange(1, TABLE, dtype=np.float64) ** -s, zeta(s, TABLE)) / zeta(s)
    return _Law(
        sentences=normalised(setting.sentence_weights),
        nouns=normalised(setting.noun_weights),
        cells=cells,
        ranks=ranks,
        spanish=spanish,
        log_zeta=math.log(zeta(s)),
    )


def _choose(words: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """One index per random 64-bit word, by inversion; each probability is met within 2^-52."""
    edges = np.cumsum(probabilities)[:-1]  # the last index takes what is left
    return np.searchsorted(edges, (words >> np.uint64(11)) * 2.0**-53, side="right")


def _tail_rank(s: float, seed: int, document: int, slot: int) -> int:
    """A rank >= TABLE, from a random stream of its own.

    First the octave [2^j, 2^(j+1)), going up one at a time; then j random bits below the
    leading one, accepted with probability (2^j / k)^s. Nothing is rounded to a fixed grid, so
    every rank, however large, has its probability to about 1e-15 relative.
    """
    stream = np.random.Philox(key=np.array([seed, 1], np.uint64), counter=[0, slot, document, 0])

    def uniform() -> float:
        return (int(stream.random_raw()) >> 11) * 2.0**-53

    j = TABLE.bit_length() - 1
    while uniform() < (zeta(s, 2 ** (j + 1)) / zeta(s, 2**j) if j < 60 else 2 ** (1 - s)):
        j += 1
    while True:
        bits = 0
        for _ in range(-(-j // 64)):
            bits = bits << 64 | int(stream.random_raw())
        rank = (1 << j) | bits & ((1 << j) - 1)
        if uniform() < ((1 << j) / rank) ** s:
            return rank


@dataclass(frozen=True)
class Draws:
    """The derivations of consecutive documents, flattened in reading order."""

    sentences: np.ndarray  # (documents,) sentences in each document
    cells: np.ndarray  # (sentences,)
    nouns: np.ndarray  # (sentences,) nouns in each sentence
    ranks: list[int]  # one for each noun; unbounded, hence Python integers


def draw(setting: Setting, seed: int, start: int, count: int) -> Draws:
    """Derivations of documents start .. start + count - 1, each a pure function of (seed, index).

    Document i owns a fixed range of the counter of one Philox generator keyed by the seed.
    """
    law = _law(setting)
    max_sentences, max_nouns = len(law.sentences), len(law.nouns)
    words_needed = 1 + max_sentences * (2 + max_nouns)
    blocks = -(-words_needed // 4)  # the generator gives four words for each count
    generator = np.random.Philox(key=np.array([seed, 0], np.uint64)).advance(start * blocks)
    words = generator.random_raw(4 * blocks * count).reshape(count, 4 * blocks)

    sentences = _choose(words[:, 0], law.sentences) + 1  # (count,)
    body = words[:, 1:words_needed].reshape(count, max_sentences, 2 + max_nouns)
    body = body[np.arange(max_sentences) < sentences[:, None]]  # (sentences, 2 + max_nouns)
    cells = _choose(body[:, 0], law.cells)
    nouns = _choose(body[:, 1], law.nouns) + 1
    used = np.arange(max_nouns) < nouns[:, None]
    table_ranks = _choose(body[:, 2:][used], law.ranks) + 1
    ranks: list[int] = table_ranks.tolist()

    tail = np.flatnonzero(table_ranks == TABLE)
    sentence, noun = (index[tail] for index in np.nonzero(used))
    first = np.cumsum(sentences) - sentences  # each document's first sentence
    document = np.searchsorted(first, sentence, side="right") - 1
    slots = (sentence - first[document]) * max_nouns + noun
    for at, i, slot in zip(tail.tolist(), document.tolist(), slots.tolist(), strict=True):
        ranks[at] = _tail_rank(setting.zeta_exponent, seed, start + i, slot)
    return Draws(sentences, cells, nouns, ranks)


def documents(setting: Setting, seed: int, start: int, count: int) -> list[str]:
    """Documents start .. start + count - 1 of the endless corpus `seed`; each ends in a newline."""
    draws = draw(setting, seed, start, count)
    nouns = [spell(rank, setting.dictionary) for rank in draws.ranks]
    spanish, english = [noun[0] for noun in nouns], [noun[1] for noun in nouns]
    lines, at = [], 0
    for cell, noun_count in zip(draws.cells.tolist(), draws.nouns.tolist(), strict=True):
        end = at + noun_count
        lines.append(render(cell, spanish[at:end], english[at:end]))
        at = end
    edges = [0, *np.cumsum(draws.sentences).tolist()]
    return ["".join(lines[a:b]) for a, b in pairwise(edges)]


def parse(document: str, setting: Setting) -> list[tuple[int, list[int]]] | None:
    """The (cell, ranks) of each sentence; None if no derivation gives this document."""
    derivation = []
    *lines, rest = document.split("\n")
    for line in lines:
        spanish, _, english = line.partition(" = ")
        form, _, nouns = spanish.partition(" para ")
        cell = CELL.get((form, english.partition(" for ")[0]))
        ranks = [rank_of(noun) for noun in nouns.split(" y ")]
        if cell is None or not all(ranks):
            return None
        words = [spell(rank, setting.dictionary) for rank in ranks]
        if render(cell, [word[0] for word in words], [word[1] for word in words]) != line + "\n":
            return None
        derivation.append((cell, ranks))
    return derivation if derivation and not rest else None


def half_log_probabilities(document: str, setting: Setting) -> tuple[float, float]:
    """ln p of the Spanish halves with the document's end, and of the English halves given them.

    In nats; the two add up to `log_probability`. Both -inf if the document cannot occur.
    """
    law = _law(setting)
    derivation = parse(document, setting)
    if derivation is None or len(derivation) > len(law.sentences):
        return -math.inf, -math.inf
    factors = [law.sentences[len(derivation) - 1]]
    nouns = english = 0.0
    for cell, ranks in derivation:
        if len(ranks) > len(law.nouns) or not law.cells[cell]:
            return -math.inf, -math.inf
        of_spanish = law.spanish[SPANISH[cell]]
        factors += [of_spanish, law.nouns[len(ranks) - 1]]
        nouns -= sum(setting.zeta_exponent * math.log(rank) + law.log_zeta for rank in ranks)
        english += math.log(law.cells[cell] / of_spanish)
    if not all(factors):
        return -math.inf, -math.inf
    return nouns + math.fsum(map(math.log, factors)), english


def log_probability(document: str, setting: Setting) -> float:
    """ln p of a document, its end included, in nats; -inf if it cannot occur."""
    return sum(half_log_probabilities(document, setting))


def english_bytes(document: str) -> np.ndarray:
    """Whether each UTF-8 byte of a document belongs to an English half: (bytes,) bool."""
    codes = np.frombuffer(document.encode("utf-8"), np.uint8)
    equals, newline = codes == ord("="), codes == ord("\n")
    # English: after a line's "=" and up to its newline, so neither mark counts for itself yet.
    return np.cumsum(equals) - equals > np.cumsum(newline) - newline


@dataclass(frozen=True)
class Floor:
    """What no model can do better than on average, over whole documents with their ends."""

    nats_per_document: float  # spanish_nats + english_nats
    spanish_nats: float  # per document, the decisions to stop included
    english_nats: float  # per document, given the Spanish halves
    bytes_per_document: float  # expected UTF-8 bytes; the end-of-document token has none
    nats_per_byte: float  # ratio of the two expectations


def floor(setting: Setting) -> Floor:
    """The entropy of a document and its expected length in closed form.

    K independent sentences: H(document) = H(K) + E[K] H(sentence). Exact but for rounding; the
    sums over ranks are closed by Euler-Maclaurin to about 1e-14.
    """
    law = _law(setting)
    sentences = float(law.sentences @ np.arange(1, len(law.sentences) + 1))  # E[K]
    nouns = float(law.nouns @ np.arange(1, len(law.nouns) + 1))  # expected, per sentence
    spanish_form = _entropy(list(law.spanish.values()))
    english = sentences * (_entropy(law.cells) - spanish_form)
    spanish = _entropy(law.sentences) + sentences * (
        spanish_form + _entropy(law.nouns) + nouns * noun_nats(setting.zeta_exponent)
    )
    # A line with its nouns left out, then the nouns, then what joins them.
    blank = [len(render(cell, [""], [""]).encode()) for cell in range(len(CELLS))]
    noun_bytes = len("".join(SYLLABLES[0])) * noun_syllables(setting.zeta_exponent)
    joints = (nouns - 1) * len(" y  and ")
    size = sentences * (float(law.cells @ blank) + nouns * noun_bytes + joints)
    return Floor(spanish + english, spanish, english, size, (spanish + english) / size)


def _entropy(probabilities: np.ndarray | list[float]) -> float:
    p = np.array(probabilities)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
