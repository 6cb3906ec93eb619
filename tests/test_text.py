"""Both languages say the same things, and the code says nothing else."""

import ast
import locale
import re
import string
from pathlib import Path

import pytest

import x1
from x1 import text
from x1.text import LANGUAGES, UserError, catalogue, language, say, set_language

SOURCES = sorted(Path(x1.__file__).parent.rglob("*.py"))

# Who takes a key, and what goes in front of it: say("plan.written"), word("gaps") in a report.
SPEAKERS = dict.fromkeys(
    ("say", "tell", "UserError", "Refused", "Unfit", "Unreachable", "Refuted", "Unanswered"), ""
)
IN_MODULE = {
    ("report", "word"): "report.",
    ("report_tables", "word"): "report.",
    ("report_next", "word"): "report.",
    ("portfolio", "own"): "portfolio.",
    ("portfolio", "word"): "report.",
    ("plan", "both"): "plan.",
    ("plan", "unknown"): "plan.",
    ("plan_page", "word"): "plan.",
    ("predict", "both"): "plan.",
    ("predict", "unknown"): "plan.",
    ("rehearse", "stage"): "rehearse.stage_",
}
PREFIXES = ("", "plan.", "report.", "portfolio.", "rehearse.stage_")
PASSED_ON = {
    "plan.*",
    "report.*",
    "portfolio.*",
}  # say(f"plan.{key}") itself: the key is given by its callers

SAME_IN_BOTH = {
    "data.rate",  # tokens/s, MB/s
    "plan.row.kwh",
    "plan.row.mfu",
    "plan.row.tokens_per_s",
    "report.bits",
    "report.config_file",
    "report.event.checkpoint",  # a checkpoint is un checkpoint
    "report.key.checkpoint",
    "report.manifest_caption",
    "report.nats",
    "report.source.dataset",  # its name alone
    "report.tile.mfu",
    "train.speed",
    "verify.check.mfu",
    "watch.plan",  # el plan
}
FRAGMENTS = {"money.other", "money.stale"}  # they begin or end with a space: part of a sentence


def placeholders(sentence):
    """(name, format spec, conversion) of each placeholder, sorted."""
    fields = string.Formatter().parse(sentence)
    return sorted(
        (name, spec, conversion) for _, name, spec, conversion in fields if name is not None
    )


def pattern(joined):
    """An f-string as a pattern: "plan.row.*"."""
    return "".join(v.value if isinstance(v, ast.Constant) else "*" for v in joined.values)


def branches(node):
    """The strings an argument may be: itself, or both sides of an `a if b else c`."""
    if isinstance(node, ast.IfExp):
        return branches(node.body) + branches(node.orelse)
    return [node]


def calls(tree, module):
    """(prefix, key node, call) of every call that speaks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            prefix = SPEAKERS.get(name, IN_MODULE.get((module, name)))
            if prefix is not None:
                for key in branches(node.args[0]):
                    yield prefix, key, node


TREES = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}
SPOKEN = [(path, *call) for path, tree in TREES.items() for call in calls(tree, path.stem)]
FIXED = [
    (f"{path.name}:{node.lineno}", prefix + key.value, node)
    for path, prefix, key, node in SPOKEN
    if isinstance(key, ast.Constant) and isinstance(key.value, str)
]
FAMILIES = {
    prefix + pattern(key): f"{path.name}:{node.lineno}"
    for path, prefix, key, node in SPOKEN
    if isinstance(key, ast.JoinedStr)
}


def words_in_the_code():
    """Every string, and every name that a keyword argument has: what may fill a family."""
    found = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value, Path(node.value).stem}  # report.lost.ledger: ledger.jsonl
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
    return found


def test_both_languages_have_the_same_keys():
    assert set(catalogue("en")) == set(catalogue("es"))


@pytest.mark.parametrize("key", sorted(catalogue("en")))
def test_a_sentence_has_the_same_placeholders_in_both_and_formats(key):
    english, spanish = (catalogue(code)[key] for code in LANGUAGES)
    assert placeholders(english) == placeholders(spanish)
    for sentence in (english, spanish):
        assert sentence.strip() and (sentence == sentence.strip() or key in FRAGMENTS)
        # A number goes through every format spec; !r and plain fields take anything.
        filled = sentence.format(**{name: 12345 for name, _, _ in placeholders(sentence)})
        assert "{" not in filled and "}" not in filled
        # A field is a name: {0} or {a.b} could reach into what is passed.
        assert all(name.isidentifier() for name, _, _ in placeholders(sentence))


def test_nothing_is_left_in_english():
    same = {key for key, english in catalogue("en").items() if catalogue("es")[key] == english}
    assert same == SAME_IN_BOTH


def test_the_code_was_found():
    assert len(FIXED) > 200 and len(FAMILIES) > 10


@pytest.mark.parametrize(("where", "key", "node"), FIXED, ids=[f"{w} {k}" for w, k, _ in FIXED])
def test_a_key_in_the_code_exists_and_its_placeholders_are_given(where, key, node):
    assert key in catalogue("en")
    given = {keyword.arg for keyword in node.keywords}
    if None not in given:  # no **values
        wanted = {name for name, _, _ in placeholders(catalogue("en")[key])}
        assert wanted <= given
        if isinstance(node.args[0], ast.Constant):  # of two sentences, one may say less
            assert wanted == given - {"lang"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_of_keys_has_members(family):
    wanted = re.compile(re.escape(family).replace(r"\*", "[^.]+"))
    assert any(wanted.fullmatch(key) for key in catalogue("en")) or family in PASSED_ON


def test_the_verbs_and_panels_of_the_command_line_exist():
    tree = TREES[next(path for path in SOURCES if path.name == "cli.py")]
    verbs = [
        (node.args[0].value, node.args[1].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "verb"
    ]
    assert len(verbs) >= 7
    for name, panel in verbs:
        assert {f"cli.{name}", f"cli.panel_{panel}"} <= set(catalogue("en"))


def test_no_sentence_is_unused():
    words = words_in_the_code()
    fixed = {prefix + word for word in words for prefix in PREFIXES}
    families = [family.split("*") for family in FAMILIES if family not in PASSED_ON]

    def used(key):
        # A family's star stands for one word of the code.
        return key in fixed or any(
            key.startswith(before) and key.endswith(after) and key[len(before) :] in words
            for before, after in families
        )

    assert [key for key in catalogue("en") if not used(key)] == []


# ---- Which language


@pytest.fixture
def unsaid(monkeypatch):
    """Nobody has named a language: neither --lang nor the environment nor the system."""
    set_language(None)
    for name in ("X1_LANG", "LANG", "LC_ALL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(locale, "getlocale", lambda: (None, None))
    return monkeypatch


def test_the_language_is_chosen_in_order(unsaid):
    assert language() == "en"
    unsaid.setenv("LANG", "es_AR.UTF-8")
    assert language() == "es"
    unsaid.setattr(locale, "getlocale", lambda: ("en_GB", "UTF-8"))
    assert language() == "en"
    unsaid.setenv("X1_LANG", "es")
    assert language() == "es"
    set_language("en")
    assert language() == "en"
    set_language(None)
    assert language() == "es"


@pytest.mark.parametrize("code", ["C", "fr_FR", "", "ES"])
def test_a_language_that_is_not_spoken_is_passed_over(unsaid, code):
    unsaid.setenv("LANG", code)
    unsaid.setenv("X1_LANG", code)
    assert language() == ("es" if code == "ES" else "en")


@pytest.mark.parametrize("code", ["fr", "", "ES"])
def test_an_unknown_language_on_the_command_line_is_refused(code):
    with pytest.raises(UserError) as refused:
        set_language(code)
    assert "en, es" in str(refused.value)
    assert language() == "en"


def test_a_fault_reads_in_the_language_of_the_moment():
    fault = UserError("data.no_file", file="a.txt")
    assert str(fault) == "There is no text file a.txt."
    set_language("es")
    assert str(fault) == "No existe el archivo de texto a.txt."
    assert say("cli.interrupted", "en") == "Interrupted."


def test_a_value_is_never_read_as_a_template():
    assert "{file}" in say("data.no_file", file="{file}") and "%s" in say("data.no_file", file="%s")


def test_the_catalogues_are_read_once():
    assert text.catalogue("en") is text.catalogue("en")
