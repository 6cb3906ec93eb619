"""The generated corpus: its forms, its law, its exact probabilities and its entropy floor."""

import csv
import math
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import chain, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from x1 import corpus
from x1.corpus import SETTINGS, Setting

# Every Spanish form that more than one cell gives: by hand, not from the code.
AMBIGUOUS = {
    "nosotros hablamos": {"we speak", "we spoke"},
    "nosotros buscamos": {"we seek", "we sought"},
    "nosotros llegamos": {"we arrive", "we arrived"},
    "nosotros pensamos": {"we think", "we thought"},
    "nosotros vivimos": {"we live", "we lived"},
    "nosotros escribimos": {"we write", "we wrote"},
    "nosotros dormimos": {"we sleep", "we slept"},
    "nosotros pedimos": {"we ask", "we asked"},
    "yo fui": {"I was", "I went"},
    "él fue": {"he was", "he went"},
    "nosotros fuimos": {"we were", "we went"},
}

# Unlike any setting in use: uneven weights, several nouns, a heavy tail, impossible counts.
UNEVEN = Setting(
    zeta_exponent=1.3,
    sentence_weights=(3, 0, 2, 1),
    noun_weights=(2, 1, 1),
    verb_weights=tuple(range(1, 21)),
    tense_weights=(5, 4, 3, 2, 1),
    person_weights=(1, 2, 3),
    dictionary=True,
)
LAWS = [*SETTINGS.values(), UNEVEN]
RANKS = st.one_of(st.integers(1, 10**6), st.integers(1, 2**300))


def verb_table() -> list[dict[str, str]]:
    text = Path(__file__).with_name("verb_forms.tsv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def test_the_600_forms_are_those_of_the_table() -> None:
    made = [
        (verb.spanish, tense, person, corpus.spanish_form(verb, tense, person),
         corpus.english_form(verb, tense, person))
        for verb, tense, person in corpus.CELLS
    ]  # fmt: skip
    typed = [tuple(row.values()) for row in verb_table()]
    assert len(set(typed)) == 300
    assert made == typed


def test_the_ambiguous_forms_are_those_listed_and_english_settles_them() -> None:
    english = defaultdict(list)
    for spanish_form, english_form in zip(corpus.SPANISH, corpus.ENGLISH, strict=True):
        english[spanish_form].append(english_form)
    shared = {spanish: forms for spanish, forms in english.items() if len(forms) > 1}
    assert {spanish: set(forms) for spanish, forms in shared.items()} == AMBIGUOUS
    assert all(len(set(forms)) == len(forms) for forms in english.values())


def test_no_two_derivations_share_a_line() -> None:
    nouns = [[k] for k in (*range(1, 40), 10**6)] + [list(p) for p in product((1, 2, 18), repeat=2)]
    lines = set()
    for cell, ranks in product(range(300), nouns):
        spanish, english = zip(*map(corpus.spell, ranks), strict=True)
        lines.add(corpus.render(cell, list(spanish), list(english)))
    assert len(lines) == 300 * len(nouns)


@given(RANKS, RANKS, st.booleans())
def test_spelling_is_injective_in_each_language(a: int, b: int, dictionary: bool) -> None:
    spanish, english = corpus.spell(a, dictionary)
    assert corpus.rank_of(spanish) == a
    for one, other in zip((spanish, english), corpus.spell(b, dictionary), strict=True):
        assert (one == other) == (a == b)


@given(st.integers(1, 2**300), st.integers(1, 2**20))
def test_neighbouring_ranks_are_spelled_apart(rank: int, step: int) -> None:
    assert corpus.spell(rank, True)[1] != corpus.spell(rank + step, True)[1]
    assert corpus.spell(rank)[1] != corpus.spell(rank + step)[1]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_scramble_is_a_permutation_of_the_ranks_of_one_length(length: int) -> None:
    first = (16**length - 1) // 15
    ranks = range(first, first + 16**length)
    assert sorted(corpus.scramble(rank, length) for rank in ranks) == list(ranks)


def test_english_spelling_can_be_read_back_syllable_by_syllable() -> None:
    spanish, english = zip(*corpus.SYLLABLES, strict=True)
    assert {len(s) for s in spanish} == {2} and {len(e) for e in english} == {3}
    assert len(set(spanish)) == len(set(english)) == len({s[0] for s in spanish}) == 16


@pytest.mark.parametrize("text", ["", "b", "bab", "qu", "ba ba", "BA", "bá"])
def test_what_is_no_noun_has_no_rank(text: str) -> None:
    assert corpus.rank_of(text) == 0


@pytest.mark.parametrize("setting", LAWS)
def test_a_document_depends_on_seed_and_index_alone(setting: Setting) -> None:
    start = 10**12 + 7
    together = corpus.documents(setting, 5, start, 400)
    blocks = [corpus.documents(setting, 5, start + first, 50) for first in range(0, 400, 50)]
    assert list(chain(*blocks)) == together
    backwards = [corpus.documents(setting, 5, start + i, 1)[0] for i in reversed(range(400))]
    assert backwards[::-1] == together
    assert corpus.documents(setting, 6, start, 400) != together
    assert corpus.documents(setting, 5, start, 0) == []


def test_ranks_beyond_the_table_occur_and_survive_any_block_size() -> None:
    setting = replace(UNEVEN, zeta_exponent=1.15)
    whole = corpus.draw(setting, 1, 0, 300)
    apart = [corpus.draw(setting, 1, i, 1).ranks for i in range(300)]
    assert list(chain(*apart)) == whole.ranks
    assert max(whole.ranks) > 2**64  # beyond any machine integer or float's exact range
    huge = [rank for rank in whole.ranks if rank > 2**53]
    assert len(set(huge)) == len(huge) and any(rank % 2 for rank in huge)


def test_the_corpus_is_the_one_it_has_always_been() -> None:
    assert corpus.documents(UNEVEN, 0, 0, 2) == [
        "nosotros hicimos para no = we made for nor\n",
        "yo hacía para fotipupuce y fo = I used to make for rasrasyunrasbar and puk\n"
        "nosotros vivimos para ce = we live for som\n"
        "nosotros queremos para zofo y ba = we want for jatzot and bar\n",
    ]


def test_documents_have_the_drawn_shape() -> None:
    draws = corpus.draw(UNEVEN, 2, 0, 3000)
    texts = corpus.documents(UNEVEN, 2, 0, 3000)
    assert [text.count("\n") for text in texts] == draws.sentences.tolist()
    assert set(draws.sentences.tolist()) == {1, 3, 4}  # two sentences have weight 0
    derivations = [corpus.parse(text, UNEVEN) for text in texts]
    assert [d for d in derivations if d is None] == []
    assert [k for d in derivations if d for _, ranks in d for k in ranks] == draws.ranks
    assert [cell for d in derivations if d for cell, _ in d] == draws.cells.tolist()


@pytest.mark.parametrize("s", [1.2, 1.5, 2.0])
def test_zeta_sums(s: float) -> None:
    head = sum(k**-s for k in range(1, 50))
    assert corpus.zeta(s) == pytest.approx(head + corpus.zeta(s, 50), rel=1e-13)
    assert corpus.zeta(s, 2000) - corpus.zeta(s, 2001) == pytest.approx(2000**-s, rel=1e-9)
    step = 1e-5  # -zeta'(s) is the sum of ln(k) k^-s
    slope = (corpus.zeta(s - step) - corpus.zeta(s + step)) / (2 * step)
    expected = s * slope / corpus.zeta(s) + math.log(corpus.zeta(s))
    assert corpus.noun_nats(s) == pytest.approx(expected, rel=1e-7)


def test_zeta_and_noun_entropy_at_known_values() -> None:
    assert corpus.zeta(2) == pytest.approx(math.pi**2 / 6, rel=1e-14)
    assert corpus.zeta(4) == pytest.approx(math.pi**4 / 90, rel=1e-14)
    assert corpus.zeta(1.5) == pytest.approx(2.6123753486854883, rel=1e-14)
    # zeta'(2) = -0.93754825431584375...
    known = 2 * 0.93754825431584375 / corpus.zeta(2) + math.log(corpus.zeta(2))
    assert corpus.noun_nats(2) == pytest.approx(known, rel=1e-13)


@pytest.mark.parametrize("s", [1.06, 1.3, 2.0])
def test_noun_syllables_is_the_mean_length(s: float) -> None:
    # 240 lengths summed one by one leave out 16^(240 (1 - s)) of the tail at most.
    lengths = [(16**m - 1) // 15 for m in range(1, 242)]
    tails = [corpus.zeta(s, first) / corpus.zeta(s) for first in lengths]
    mean = sum(m * (tails[m - 1] - tails[m]) for m in range(1, 241))
    assert corpus.noun_syllables(s) == pytest.approx(mean, rel=1e-9)


def test_every_range_of_ranks_has_its_probability() -> None:
    s, count = 1.3, 200_000
    setting = Setting(zeta_exponent=s, sentence_weights=(1,), noun_weights=(1,))
    ranks = corpus.draw(setting, 3, 0, count).ranks
    bins = Counter(k.bit_length() if k > 8 else -k for k in ranks)
    for key, seen in bins.items():
        low, high = (2 ** (key - 1), 2**key) if key > 0 else (-key, 1 - key)
        low = max(low, 9) if key > 0 else low
        p = (corpus.zeta(s, low) - corpus.zeta(s, high)) / corpus.zeta(s)
        assert abs(seen - count * p) < 5 * math.sqrt(count * p) + 2, (low, high)


def test_a_rank_of_the_tail_has_the_zeta_law_within_its_octave() -> None:
    s = 1.5
    ranks = np.array([float(corpus._tail_rank(s, 0, i, 0)) for i in range(6000)])
    assert ranks.min() >= corpus.TABLE
    for bound in (1.25, 1.5, 2.0, 3.0, 8.0, 64.0):
        p = corpus.zeta(s, int(bound * corpus.TABLE)) / corpus.zeta(s, corpus.TABLE)
        error = math.sqrt(p * (1 - p) / len(ranks))
        assert abs((ranks >= bound * corpus.TABLE).mean() - p) < 4 * error, bound


def test_every_bit_of_a_huge_rank_is_drawn() -> None:
    ranks = [corpus._tail_rank(1.01, 0, i, 0) for i in range(2000)]
    huge = [rank for rank in ranks if rank.bit_length() > 200]
    assert len(huge) > 300
    for shift in (0, 1, 63, 64, 65, 127, 128, 150):  # bits far below the leading one are fair
        share = sum(rank >> shift & 1 for rank in huge) / len(huge)
        assert abs(share - 1 / 2) < 4 * math.sqrt(1 / 4 / len(huge)), shift


@pytest.mark.parametrize("setting", LAWS)
def test_floor_is_the_mean_of_minus_log_probability(setting: Setting) -> None:
    floor = corpus.floor(setting)
    texts = corpus.documents(setting, 11, 0, 20_000)
    halves = -np.array([corpus.half_log_probabilities(text, setting) for text in texts])
    sizes = np.array([len(text.encode()) for text in texts])
    for sample, exact in [
        (halves[:, 0], floor.spanish_nats),
        (halves[:, 1], floor.english_nats),
        (halves.sum(1), floor.nats_per_document),
        (sizes, floor.bytes_per_document),
    ]:
        standard_error = sample.std() / math.sqrt(len(sample))
        assert abs(sample.mean() - exact) < 3.5 * standard_error
        assert standard_error < 0.03 * exact  # the comparison can tell a few per cent
    assert floor.nats_per_byte == floor.nats_per_document / floor.bytes_per_document


def test_english_floor_is_the_ambiguity_and_nothing_else() -> None:
    one_each = Setting(zeta_exponent=2.0, sentence_weights=(1,), noun_weights=(1,))
    # Eleven pairs of equally likely cells: 22 of the 300, one bit each.
    assert corpus.floor(one_each).english_nats == pytest.approx(22 / 300 * math.log(2))
    forms = math.log(300) - 22 / 300 * math.log(2)
    assert corpus.floor(one_each).spanish_nats == pytest.approx(forms + corpus.noun_nats(2.0))


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_unseen_noun_mass_falls_as_the_law_says(setting: Setting) -> None:
    s, seeds = setting.zeta_exponent, 4
    counts = [2_000, 6_000, 20_000, 60_000, 200_000]  # nouns a run of 0.02M to 3M tokens reads
    unseen = np.zeros(len(counts))
    one_noun = replace(setting, sentence_weights=(1,), noun_weights=(1,))
    for seed in range(seeds):
        ranks = corpus.draw(one_noun, seed, 0, counts[-1]).ranks
        for at, n in enumerate(counts):
            seen = np.array(list(map(float, set(ranks[:n]))))
            unseen[at] += (1 - (seen**-s).sum() / corpus.zeta(s)) / seeds
    slope = np.polyfit(np.log(counts), np.log(unseen), 1)[0]
    assert slope == pytest.approx(-(1 - 1 / s), abs=0.02)


@pytest.mark.parametrize("setting", [UNEVEN, SETTINGS["rehearsal"]])
def test_probabilities_of_a_truncated_space_add_up(setting: Setting) -> None:
    one = replace(setting, sentence_weights=(1, 3), noun_weights=(2, 1))
    s = one.zeta_exponent
    single = double = 0.0
    for cell in range(300):
        for ranks in [(k,) for k in range(1, 21)] + list(product(range(1, 5), repeat=2)):
            words = [corpus.spell(k, one.dictionary) for k in ranks]
            line = corpus.render(cell, [w[0] for w in words], [w[1] for w in words])
            p = math.exp(corpus.log_probability(line, one))
            single, double = (single + p, double) if len(ranks) == 1 else (single, double + p)

    def mass(below: int) -> float:
        return 1 - corpus.zeta(s, below) / corpus.zeta(s)

    assert single == pytest.approx(1 / 4 * 2 / 3 * mass(21), rel=1e-12)
    assert double == pytest.approx(1 / 4 * 1 / 3 * mass(5) ** 2, rel=1e-12)


def test_the_probability_of_a_document_worked_by_hand() -> None:
    setting = Setting(zeta_exponent=2.0, sentence_weights=(1, 3), noun_weights=(4, 1))
    text = (
        "nosotros hablamos para ce = we spoke for cen\nyo soy para ba y di = I am for bar and dim\n"
    )
    zeta = math.pi**2 / 6
    english = math.log(1 / 2)
    spanish = math.log(3 / 4 * (2 / 300) * (4 / 5) * (1 / 4 / zeta) * (1 / 300) * (1 / 5))
    spanish += math.log(1 / zeta * (1 / 9 / zeta))
    assert corpus.half_log_probabilities(text, setting) == pytest.approx((spanish, english))
    assert corpus.log_probability(text, setting) == pytest.approx(spanish + english)


GOOD = "nosotros fuimos para lemi y ba = we went for ledmip and bar\n"
PAIRS = Setting(zeta_exponent=2.0, sentence_weights=(1, 1), noun_weights=(1, 1))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "\n",
        GOOD.strip(),
        GOOD + "\n",
        "\n" + GOOD,
        GOOD * 3,  # more sentences than the setting allows
        GOOD + "yo",
        GOOD.replace("went", "go"),  # a form of another cell
        GOOD.replace("we went", "he went"),
        GOOD.replace("ledmip", "ledmi"),
        GOOD.replace("ledmip", "mipled"),
        GOOD.replace("lemi", "lem"),
        GOOD.replace("and", "for"),
        GOOD.replace(" y ", " "),
        GOOD.replace(" y ba", " y ba y ba").replace(" and bar", " and bar and bar"),
        GOOD.replace(" y ba", "").strip() + "\n",  # nouns of one half only
        GOOD.replace(" = ", "  = "),
        GOOD.replace(" = ", "="),
        GOOD.replace("fuimos", "fuimos "),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", " \n"),
        GOOD.replace("ba ", "0 "),
        GOOD.upper(),
    ],
)
def test_a_corrupted_document_is_impossible(bad: str) -> None:
    assert corpus.log_probability(GOOD, PAIRS) > -50
    assert corpus.log_probability(bad, PAIRS) == -math.inf
    assert corpus.half_log_probabilities(bad, PAIRS) == (-math.inf, -math.inf)


def test_what_has_weight_zero_is_impossible() -> None:
    for weights in (
        {"sentence_weights": (0, 1)},
        {"noun_weights": (1, 0)},
        {"verb_weights": (1.0,) * 19 + (0.0,)},
        {"tense_weights": (1, 0, 1, 1, 1)},
        {"person_weights": (1, 1, 0)},
        {"dictionary": True},
    ):
        assert corpus.log_probability(GOOD, replace(PAIRS, **weights)) == -math.inf, weights


@given(st.integers(0, 2000), st.data())
def test_any_changed_byte_changes_the_document_or_makes_it_impossible(
    index: int, data: st.DataObject
) -> None:
    text = corpus.documents(PAIRS, 0, index, 1)[0]
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from("abelsy =\n\t0é")) + text[at + 1 :]
    derivation = corpus.parse(changed, PAIRS)
    assert (derivation == corpus.parse(text, PAIRS)) == (changed == text)


def test_english_bytes_mark_what_follows_the_equals_sign() -> None:
    text = "él está para ba = he is for bar\nyo soy para ce = I am for cen\n"
    marks = corpus.english_bytes(text)
    raw = np.frombuffer(text.encode(), np.uint8)
    assert bytes(raw[marks]).decode() == " he is for bar\n I am for cen\n"
    assert bytes(raw[~marks]).decode() == "él está para ba =yo soy para ce ="
    assert len(corpus.english_bytes("")) == 0
