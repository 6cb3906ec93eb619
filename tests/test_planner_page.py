"""The planner's page computes what `x1 plan --json` prints, and can be used by anyone.

A small site with the real page, script and constants is built and read in headless Chromium. The
script's record is held against the package's over a grid of inputs; the page itself, over another,
against the command that it shows.
"""

import importlib.util
import io
import itertools
import json
import math
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.main import get_command

from x1 import money, plan, plan_page, predict, scaling
from x1.cli import build_app
from x1.config import PRESETS, build
from x1.text import LANGUAGES, UserError, say, set_language

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
Json = dict[str, Any]


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


browsing = module(ROOT / "tests" / "browser.py")
hook = module(DOCS / "hooks_planner.py")

pytestmark = pytest.mark.skipif(
    browsing.chromium() is None, reason="no Chromium here: install it, or name one in CHROMIUM"
)


class Loader(yaml.SafeLoader):
    """mkdocs.yml names Python objects; here they are text."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planner's pages built alone, with the site's own theme."""
    place = tmp_path_factory.mktemp("planner")
    for name in ("planner.md", "planner.es.md"):
        (place / "docs").mkdir(exist_ok=True)
        shutil.copy(DOCS / name, place / "docs")
    for name in ("index", "cases", "scale"):
        for end in (".md", ".es.md"):
            (place / "docs" / (name + end)).write_text(f"# {name}\n", "utf-8")
    for folder in ("javascripts", "stylesheets"):
        shutil.copytree(DOCS / folder, place / "docs" / folder)
    whole = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)
    languages = next(p["i18n"] for p in whole["plugins"] if "i18n" in p)["languages"]
    small = {
        "site_name": "X1",
        "hooks": [str(DOCS / "hooks.py"), str(DOCS / "hooks_planner.py")],
        "theme": {**whole["theme"], "custom_dir": str(ROOT / whole["theme"]["custom_dir"])},
        "extra_css": whole["extra_css"],
        "markdown_extensions": ["attr_list", "md_in_html", "tables", {"toc": {"permalink": True}}],
        "plugins": ["search", {"i18n": {"docs_structure": "suffix", "languages": languages}}],
        "validation": whole["validation"],
        "nav": [{"Planner": "planner.md"}, "index.md", "cases.md", "scale.md"],
    }
    assert all(needed in whole["markdown_extensions"] for needed in ("attr_list", "md_in_html"))
    (place / "mkdocs.yml").write_text(yaml.safe_dump(small), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with browsing.served(site) as found:
        yield found


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with browsing.Browser() as browser:
        yield browser


@pytest.fixture
def page(tab: Any, address: str) -> Iterator["Page"]:
    """The page in a wide window. At the end: it asked no other host, it complained of nothing."""
    tab.size(1200)
    shown = Page(tab, address)
    yield shown
    assert shown.said == []
    assert not [one for one in shown.asked if not one.startswith((address, "data:"))]


class Page:
    def __init__(self, tab: Any, address: str) -> None:
        self.tab, self.address = tab, address
        self.said: list[str] = []
        self.asked: list[str] = []

    def open(self, state: str = "", language: str = "en") -> None:
        """The page of a language with this state, loaded anew."""
        place = "" if language == "en" else f"{language}/"
        self.tab.open(f"{self.address}{place}planner/?{state}")
        self.note()

    def go(self, state: str) -> None:
        """The page that is open with another state, as Back would bring it."""
        self.run(
            f"history.replaceState(null, '', {json.dumps('?' + state)});"
            "dispatchEvent(new PopStateEvent('popstate'))"
        )
        self.note()

    def note(self) -> None:
        """What the page has said and asked for, for the end of the test."""
        self.said += self.tab.complaints
        self.asked += self.tab.requests

    def run(self, expression: str) -> Any:
        return self.tab.run(expression)

    def text(self, name: str) -> str:
        return str(self.run(f"document.getElementById('planner-{name}').textContent"))

    def hidden(self, name: str) -> bool:
        return bool(self.run(f"document.getElementById('planner-{name}').hidden"))

    def rows(self, name: str) -> list[list[str]]:
        """The cells of a table's lines, what each rests on in a line of its own."""
        found = self.run(
            f"[...document.querySelectorAll('#planner-{name} tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return [[str(cell) for cell in row] for row in found]

    def summary(self) -> dict[str, str]:
        return dict(
            self.run(
                "Object.fromEntries([...document.querySelectorAll('#planner-summary dd')]"
                ".map(cell => [cell.dataset.name, cell.textContent]))"
            )
        )

    def type(self, name: str, value: str) -> None:
        """As a reader does, key by key being the same as at once."""
        self.run(
            f"(() => {{ const field = document.getElementById('planner').elements['{name}'];"
            f"field.value = {json.dumps(value)};"
            "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )


# ---- The script's record beside the package's

ASKED: list[Json] = [
    {},
    {"tokens_per_s": 2000.0},
    {"mfu": 0.4, "tokens": 7_000_000_000},
    {"price": 2.3875, "mfu": 0.123, "tokens": 123_456_789},
    {"watts": 451.5, "tariff_usd_per_kwh": 0.31, "tokens_per_s": 987.5},
]
SHAPES: list[Json] = [
    # Those of ladders, so that their lines are not zero, also for a preset that is not theirs.
    {"n_layers": 12, "n_heads": 8, "d_model": 512, "d_ff": 1408, "context": 1024,
     "vocab_size": 16_384, "tied": True},
    {"n_layers": 2, "n_heads": 12, "d_model": 96, "d_ff": 288, "context": 128, "vocab_size": 512},
    {"n_layers": 80, "n_heads": 64, "d_model": 8192, "d_ff": 30_000, "context": 8192,
     "vocab_size": 130_000, "tied": False},
]  # fmt: skip
REFUSED: list[Json] = [
    {"mfu": 1.2},
    {"mfu": 0.0},
    {"price": -1.0},
    {"price": 0.0},
    {"price": 1.0, "hardware": "own-l4"},
    {"tokens": 0},
    {"tokens": -5},
    {"tokens_per_s": -0.5},
    {"tokens_per_s": 1e12},
    {"mfu": 0.4, "hardware": "own-cpu"},
    {"watts": -5},
    {"tariff_usd_per_kwh": 0},
    {"shape": {"n_layers": 0}},
    {"shape": {"vocab_size": 1}},
    {"shape": {"d_model": 100, "n_heads": 7}},
    {"shape": {"d_model": 72, "n_heads": 8}},
    {"shape": {"vocab_size": 300}, "preset": "shakespeare-bytes"},
]
# A price of today, one twelve days old, stale ones, none, and machines of one's own.
MACHINES = ("a100-80gb", "a100-40gb", "h100-sxm", "l4", "rtx-5090", "own-rtx-3090", "own-cpu")
TODAY = date(2026, 11, 21)


def grid() -> list[Json]:
    """Every preset on every machine, asked in every way; shapes; and numbers nobody chose."""
    plain = [
        {"preset": preset, "hardware": machine, **asked}
        for preset, machine, asked in itertools.product(PRESETS, MACHINES, ASKED)
    ]
    shaped = [
        {"preset": preset, "hardware": machine, "shape": shape, "recompute": recompute,
         "tokens_per_s": 50.0}
        for preset, machine, shape, recompute in itertools.product(
            ("x1-50m", "rehearsal", "gpt2-small-163m"), ("l4", "own-h200", "own-cpu"), SHAPES,
            (False, True),
        )
    ]  # fmt: skip
    rng = random.Random(8)
    drawn = [
        {
            "preset": rng.choice(list(PRESETS)),
            "hardware": rng.choice(MACHINES[:5]),
            "tokens": round(10 ** rng.uniform(4, 13)),
            "price": 10 ** rng.uniform(-3, 3),
            "mfu": rng.uniform(0.001, 1),
        }
        for _ in range(100)
    ]
    return [*plain, *shaped, *drawn, *({"preset": "x1-50m", **asked} for asked in REFUSED)]


def by_the_package(asked: Json) -> Json:
    """What the package answers: the plan's record, or the sentence of a fault."""
    settings = [
        f"model.{field}={json.dumps(value)}" for field, value in asked.get("shape", {}).items()
    ]
    if "recompute" in asked:
        settings.append(f"train.recompute={json.dumps(asked['recompute'])}")
    for field in ("watts", "tariff_usd_per_kwh"):
        if field in asked:
            settings.append(f"money.{field}={asked[field]}")
    told = ("hardware", "price", "tokens", "mfu", "tokens_per_s")
    try:
        made = plan.make_plan(
            build(asked["preset"], None, tuple(settings)),
            today=TODAY,
            **{name: asked[name] for name in told if name in asked},
        )
    except UserError as fault:
        return {"fault": str(fault)}
    return made.record


def in_language(record: Any, language: str) -> Any:
    """The record as the page has it: in one language, without what it cannot hash."""
    if isinstance(record, list):
        return [in_language(entry, language) for entry in record]
    if not isinstance(record, dict):
        return record
    if set(record) == set(LANGUAGES):
        return record[language]
    if set(record) == {"reason", *LANGUAGES}:
        return {"reason": record["reason"], "text": record[language]}
    return {
        name: in_language(entry, language)
        for name, entry in record.items()
        if name not in ("format", "config_sha256")
    }


def unequal(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two records differ. Numbers may in their last digit: two libraries' powers do."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [
            found for name in ours for found in unequal(ours[name], theirs[name], f"{where}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for i, pair in pairs for found in unequal(*pair, f"{where}[{i}]")]
    numbers = all(type(one) in (int, float) for one in (ours, theirs))
    if numbers and math.isclose(ours, theirs, rel_tol=1e-14):
        return []
    return [] if ours == theirs else [f"{where}: {ours!r} is not {theirs!r}"]


def rounded(record: Json) -> Json:
    """Every number of a plan as `x1 plan` prints it."""
    predictions = {
        name: [plan_page._figure(name, prediction[part]) for part in ("value", "low", "high")]
        for name, prediction in record["predictions"].items()
    }
    lines = [
        [plan_page._figure(name, entry[field][part]) for part in ("value", "low", "high")]
        for entry in record["lines"]
        for name, field in (("hours", "hours"), ("dollars", "usd"))
    ]
    sizes = [plan_page._short(record["model"]["parameters"]), f"{record['flops']:.2e}"]
    return {"predictions": predictions, "lines": lines, "sizes": sizes, "money": record["money"]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_script_computes_the_plan_of_the_package(page: "Page", language: str) -> None:
    page.open(language=language)
    asked = grid()
    answers = page.run(
        """(async () => {
          const { makePlan } = await import("/javascripts/plan.js");
          const constants = JSON.parse(document.getElementById("planner-constants").textContent);
          const answer = (asked) => {
            try { return makePlan(asked, "TODAY", constants); }
            catch (fault) {
              if (fault.constructor.name !== "InputError") throw fault;
              return { fault: fault.message };
            }
          };
          return ASKED.map(answer);
        })()""".replace("TODAY", TODAY.isoformat()).replace("ASKED", json.dumps(asked))
    )
    set_language(language)
    ours = [by_the_package(one) for one in asked]
    reasons = set()
    for one, expected, found in zip(asked, ours, answers, strict=True):
        if "fault" in expected:
            assert found == expected, one
            continue
        expected = in_language(expected, language)
        assert unequal(expected, found) == [], one
        assert rounded(found) == rounded(expected), one
        assert found["sentence"] == expected["sentence"], one
        reasons |= {reason["reason"] for reason in found["reasons"]}
    faults = [answer["fault"] for answer in ours if "fault" in answer]
    assert len(set(faults)) >= len(REFUSED)
    assert reasons >= {
        "no_rate", "no_price", "stale_price", "no_memory", "over_ceiling", "over_budget",
    }  # fmt: skip


def test_a_clock_that_is_behind_sees_a_price_of_the_future(page: "Page") -> None:
    page.open()
    found = page.run(
        """(async () => {
          const { makePlan } = await import("/javascripts/plan.js");
          const constants = JSON.parse(document.getElementById("planner-constants").textContent);
          return makePlan({ preset: "x1-50m" }, "2026-11-01", constants).reasons;
        })()"""
    )
    made = plan.make_plan(build("x1-50m"), today=date(2026, 11, 1))
    assert found == in_language(made.record, "en")["reasons"] != []


ROUNDED = [
    0.0, 0.5, 1.5, 2.5, 0.125, 0.375, 2.675, 1.005, 0.285, 1e-5, 9.995, 99.95, 1234567.5, 1e15,
    1e16, 123456.789, 1e-4, 0.00123456, 5e-324, 1e21, 1.7e308, 0.045, 35.0, -0.125, -2.5, 8.5e-7,
]  # fmt: skip


def test_numbers_are_written_as_python_writes_them(page: "Page") -> None:
    rng = random.Random(3)
    values = [*ROUNDED, *(rng.choice((-1, 1)) * 10 ** rng.uniform(-8, 14) for _ in range(300))]
    values += [rng.randrange(10**6) / 1000 for _ in range(300)]  # many a half among them
    page.open()
    found = page.run(
        """(async () => {
          const n = await import("/javascripts/numbers.js");
          return VALUES.map((value) => [
            n.fixed(value, 0), n.fixed(value, 2), n.general(value), n.general(value, 3),
            n.exponential(value, 2), n.floatText(value), n.grouped(value),
            n.significant(value, 2), n.round(value, 2),
          ]);
        })()""".replace("VALUES", json.dumps(values))
    )
    for value, ours in zip(values, found, strict=True):
        assert ours == [
            f"{value:.0f}", f"{value:.2f}", f"{value:g}", f"{value:.3g}",
            f"{value:.2e}", repr(value), f"{value:,.0f}",
            money.significant(value, 2), round(value, 2),
        ], value  # fmt: skip


# ---- The page beside the command it shows

STATES = [
    "",
    "preset=x1-50m&price_usd_per_hour=1.10&mfu=0.4",
    "preset=x1-50m&gpu=h100-sxm&tokens=50B",
    "preset=x1-50m&gpu=own-rtx-4090&watts=500&tariff_usd_per_kwh=0,31&tokens=1.5B",
    "preset=x1-50m&gpu=l4&d_model=640&n_heads=10&d_ff=1728&n_layers=8&vocab_size=32k&tied=false",
    "preset=x1-50m&tokens_per_s=300000",
    "preset=gpuburnout-1b",
    "preset=gpuburnout-1b&gpu=rtx-3090&price_usd_per_hour=0.24",
    "preset=gpuburnout-1b&gpu=rtx-3090&price_usd_per_hour=0.24&recompute=true&context=1024",
    "preset=sonnet-300m&gpu=own-rtx-5090&watts=800&tokens=3B",
    "preset=rehearsal",
    "preset=rehearsal&tokens_per_s=12000",
    "preset=rehearsal&tokens_per_s=12000&tokens=2M",
    "preset=shakespeare-bytes&gpu=own-cpu&tokens_per_s=1,5e5",
    "preset=gpt2-small-163m&gpu=a100-80gb&price_usd_per_hour=99",
]


def by_the_command(command: str) -> Json:
    """What `x1 plan ... --json` prints, without measuring this machine."""
    name, verb, *words = shlex.split(command)
    assert (name, verb) == ("x1", "plan")
    context = get_command(build_app()).commands["plan"].make_context("plan", [*words, "--json"])
    asked = {name: value for name, value in context.params.items() if name != "set_"}
    config = build(asked.pop("preset"), asked.pop("config"), tuple(context.params["set_"] or ()))
    printed = io.StringIO()
    asked.pop("out")
    plan_page.run_plan_command(config, today=date.today(), console=Console(file=printed), **asked)
    return dict(json.loads(printed.getvalue()))


def shown_rows(record: Json, language: str) -> tuple[list[list[str]], list[list[str]]]:
    """The lines of both tables, as `x1 plan` would word and round them."""
    predictions, lines = [], []
    for name, prediction in record["predictions"].items():
        low, high = (plan_page._figure(name, prediction[end]) for end in ("low", "high"))
        interval = "" if prediction["low"] == prediction["high"] else f"{low} – {high}"
        value = plan_page._figure(name, prediction["value"])
        predictions += [[say(f"plan.row.{name}", language), value, interval]]
        predictions += [[prediction["basis"][language]]]
    for entry in record["lines"]:
        bases = [entry["hours"]["basis"][language], entry["usd"]["basis"][language]]
        hours = plan_page._figure("hours", entry["hours"]["value"])
        dollars = plan_page._figure("dollars", entry["usd"]["value"])
        lines += [[say(f"plan.line.{entry['item']}", language), hours, dollars]]
        lines += [["; ".join(dict.fromkeys(bases if entry["usd"]["value"] else bases[:1]))]]
    return predictions, lines


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_shows_what_its_command_prints(page: "Page", language: str) -> None:
    set_language(language)
    page.open(language=language)
    for state in STATES:
        page.go(state)
        record = by_the_command(page.text("command"))
        predictions, lines = shown_rows(record, language)
        assert page.rows("predictions") == predictions, state
        assert page.rows("lines") == lines, state
        assert page.text("sentence") == (record["sentence"][language] or "–"), state
        reasons = page.run(
            "[...document.querySelectorAll('#planner-reasons li')].map(li => li.textContent)"
        )
        assert reasons == [reason[language] for reason in record["reasons"]], state
        verdict = "launchable" if record["launchable"] else "not_launchable"
        assert page.text("verdict") == say(f"plan.{verdict}", language)
        printed = Console(file=io.StringIO(), width=10_000)
        printed.print(plan_page.render(record, language), highlight=False, markup=False)
        for name in ("size", "amounts", "price"):
            for line in page.text(name).splitlines():
                assert f"{line}\n" in printed.file.getvalue(), (state, name)
        assert page.summary() == {
            "N": plan_page._short(record["model"]["parameters"], "B"),
            "D": plan_page._short(record["tokens"], "B"),
            "FLOPs": f"{record['flops']:.2e}",
            "h": plan_page._figure("hours", record["predictions"]["hours"]["value"]),
            "$": plan_page._figure("dollars", record["money"]["plan_usd"]),
            "kWh": plan_page._figure("kwh", record["predictions"]["kwh"]["value"]),
            "nats": plan_page._figure(
                "loss_nats_per_token", record["predictions"]["loss_nats_per_token"]["value"]
            ),
        }, state


def test_the_state_is_in_the_address_and_comes_back(page: "Page") -> None:
    def shown() -> tuple[Any, ...]:
        return page.rows("predictions"), page.rows("lines"), page.text("command")

    page.open()
    for state in STATES[1:6]:
        page.go(state)
        before, held = shown(), str(page.run("location.search")).removeprefix("?")
        page.open(held)
        assert shown() == before, state
    # A link within the page leaves the state alone, and the twin takes it over.
    page.run("document.querySelector('a[href=\"#lines\"]').click()")
    assert shown() == before and page.run("location.hash") == "#lines"
    page.run("setTimeout(() => document.querySelector('a[hreflang=es]').click())")
    page.tab.wait_for("location.pathname.startsWith('/es/')")
    page.tab.wait_for("document.getElementById('planner-command')?.textContent")
    assert page.text("command") == before[-1]


def test_what_is_typed_is_what_is_computed(page: "Page") -> None:
    page.open()
    page.type("preset", "gpuburnout-1b")
    assert page.text("command") == "x1 plan --preset gpuburnout-1b"
    page.type("gpu", "h200")
    page.type("price_usd_per_hour", "4,50")
    page.type("tokens", "20B")
    page.type("mfu", "0.5")
    page.type("n_layers", "20")
    command = page.text("command")
    assert command == (
        "x1 plan --preset gpuburnout-1b --gpu h200 --price-usd-per-hour 4,50 --tokens 20B"
        " --mfu 0.5 --set model.n_layers=20"
    )
    assert page.text("sentence") == by_the_command(command)["sentence"]["en"]
    page.type("gpu", "l4")  # a price belongs to the machine it was typed for
    assert "--price" not in page.text("command")
    page.type("preset", "x1-50m")  # shape and tokens are the preset's own
    assert page.text("command") == "x1 plan --preset x1-50m --gpu l4 --mfu 0.5"
    page.run("document.getElementById('planner-again').click()")
    assert page.text("command") == "x1 plan --preset x1-50m"
    assert not page.hidden("result")


def test_the_slider_of_N_keeps_a_shape_that_exists(page: "Page") -> None:
    """Its middle is the preset; every position is a configuration with the same head size."""
    page.open()
    for preset in PRESETS:
        page.go(f"preset={preset}&tokens_per_s=1")
        model, sizes = build(preset).model, []
        for heads in (
            1,
            model.n_heads - 1,
            model.n_heads,
            2 * model.n_heads + 1,
            4 * model.n_heads,
        ):
            page.run(
                "(() => { const slider = document.getElementById('planner-scale-slider');"
                f"slider.value = {heads};"
                "slider.dispatchEvent(new Event('input', {bubbles: true})); })()"
            )
            record = by_the_command(page.text("command"))
            sizes.append(record["model"]["parameters"])
            assert page.text("parameters") == f"{sizes[-1]:,}", (preset, heads)
            if heads == model.n_heads:
                assert page.text("command") == f"x1 plan --preset {preset} --tokens-per-s 1"
        assert sizes == sorted(set(sizes))


# ---- Faults

FAULTS = {
    "mfu=1.2": "--mfu 1.2",
    "mfu=0": "--mfu 0",
    "mfu=half": "--mfu half",
    "price_usd_per_hour=-1": "--price-usd-per-hour=-1",
    "price_usd_per_hour=1,234": "--price-usd-per-hour 1,234",
    "price_usd_per_hour=inf": "--price-usd-per-hour inf",
    "tokens=0": "--tokens 0",
    "tokens=many": "--tokens many",
    "tokens_per_s=9e9": "--tokens-per-s 9e9",
    "gpu=own-cpu&mfu=0.4": "--gpu own-cpu --mfu 0.4",
    "gpu=own-l4&price_usd_per_hour=1": "--gpu own-l4 --price-usd-per-hour 1",
    "gpu=own-l4&watts=-3": "--gpu own-l4 --set money.watts=-3",
    "n_layers=0": "--set model.n_layers=0",
    "d_model=100": "--set model.d_model=100",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_fault_is_the_commands_one_sentence(page: "Page", language: str) -> None:
    set_language(language)
    page.open(language=language)
    for state, options in FAULTS.items():
        page.go(f"preset=x1-50m&{state}")
        with pytest.raises(UserError) as fault:
            by_the_command(f"x1 plan --preset x1-50m {options}")
        assert page.text("fault") == str(fault.value), state
        assert page.hidden("result") and page.hidden("summary") and not page.hidden("fault")
        assert "NaN" not in page.run("document.querySelector('article').innerText")
        page.run("document.getElementById('planner-again').click()")
        assert page.hidden("fault") and not page.hidden("result")


@pytest.mark.parametrize(
    "state",
    ["tokens=1e300", "d_model=1e200", "price_usd_per_hour=1e-300", "tokens_per_s=1e-30",
     "preset=x1-51m", "gpu=a100"],
)  # fmt: skip
def test_what_only_an_address_can_say_is_refused_too(page: "Page", state: str) -> None:
    page.open(state)
    assert page.hidden("result")
    assert state.split("=")[1] in page.text("fault")
    assert "NaN" not in page.run("document.querySelector('article').innerText")


def test_no_state_of_the_form_shows_what_is_not_a_number(page: "Page") -> None:
    page.open()
    for name, text in itertools.product(
        ("tokens", "price_usd_per_hour", "mfu", "tokens_per_s", "n_layers", "vocab_size"),
        ("-", "0", "-0", "1e15", "0.000000001", " ", "1.5.5", "1e5", "٣"),
    ):
        page.type(name, text)
        shown = page.run("document.querySelector('article').innerText")
        assert not re.search(r"NaN|undefined|Infinity|null", shown), (name, text)
        page.type(name, "" if name != "n_layers" else "12")


# ---- For every reader


def press(page: "Page", key: str, code: int, **more: Any) -> None:
    """One key, with the code by which a browser tells what it does."""
    for kind in ("rawKeyDown", "keyUp"):
        page.tab._send(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=code,
            **more,
        )


def focused(page: "Page") -> str:
    return str(page.run("document.activeElement.name || document.activeElement.id"))


def test_it_works_by_keyboard_alone(page: "Page") -> None:
    page.open()
    page.run("document.getElementById('planner-preset').focus()")
    order = [focused(page)]
    while order[-1] != "planner-again" and len(order) < 30:
        press(page, "Tab", 9)
        order.append(focused(page))
    assert order == [
        "preset", "gpu", "planner-scale-slider", "tokens", "planner-tokens-slider",
        "price_usd_per_hour", "planner-price_usd_per_hour-slider", "mfu", "planner-mfu-slider",
        "tokens_per_s", "", "planner-again",
    ]  # fmt: skip
    page.run("document.getElementById('planner').elements.price_usd_per_hour.focus()")
    page.tab.write("2.5")
    assert "--price-usd-per-hour 2.5" in page.text("command")
    page.run("document.getElementById('planner-mfu-slider').focus()")
    press(page, "ArrowRight", 39)
    assert "--mfu 0.36" in page.text("command")
    page.run("document.getElementById('planner-scale-slider').focus()")
    press(page, "ArrowLeft", 37)
    assert "--set model.n_heads=7" in page.text("command")
    # What changed is told to who cannot see it, once the reader pauses.
    page.tab.wait_for(
        "document.getElementById('planner-live').textContent"
        " === document.getElementById('planner-sentence').textContent"
    )


def test_every_field_has_a_name(page: "Page") -> None:
    for language in LANGUAGES:
        page.open(language=language)
        unnamed = page.run(
            "[...document.querySelectorAll('#planner :is(input, select)')].filter(field =>"
            " !field.labels.length && !field.ariaLabel).length"
        )
        assert unnamed == 0
        described = page.run(
            "[...document.querySelectorAll('#planner [aria-describedby]')].every(field =>"
            " document.getElementById(field.getAttribute('aria-describedby')).textContent)"
        )
        assert described


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(page: "Page", language: str, width: int) -> None:
    page.tab.size(width)
    page.open(language=language)
    for state in ("", STATES[4], "preset=gpuburnout-1b&tokens=900B", "mfu=2"):
        page.go(state)
        assert page.run("document.documentElement.scrollWidth") <= width, state
        within = page.run(
            "[...document.querySelectorAll('.planner-table .md-typeset__scrollwrap')]"
            ".every(table => table.scrollWidth <= table.clientWidth)"
        )
        assert within, state


def test_without_javascript_the_page_says_what_it_needs(site: Path) -> None:
    for place, word in (("planner", "needs JavaScript"), ("es/planner", "necesita JavaScript")):
        source = (site / place / "index.html").read_text("utf-8")
        waits = re.search(r'<p id="planner-waits"([^>]*)>(.*?)</p>', source, re.DOTALL)
        assert waits and "hidden" not in waits[1] and word in waits[2]
        parts = re.findall(r'<(?:form|div|dl)[^>]*class="[^"]*planner-part[^>]*>', source)
        assert len(parts) == 3 and all(" hidden" in part for part in parts)


# ---- Beside the laws and the reports


def marks(page: "Page") -> dict[str, tuple[float, float]]:
    """Where each point of the plot is, by its label."""
    found = page.run(
        "[...document.querySelectorAll('#planner-plot .report, #planner-plot .yours')].map(group =>"
        " [group.querySelector('text').textContent, ...['cx', 'cy'].map(name =>"
        " Number(group.querySelector('circle').getAttribute(name)))])"
    )
    return {label: (x, y) for label, x, y in found}


def test_the_plot_has_x1_the_reports_and_this_run(page: "Page") -> None:
    page.open()
    at_first = marks(page)
    assert set(at_first) == {"X1", "1", "2", "3", "4", "5", "this run"}
    assert at_first["this run"] == at_first["X1"]
    # 1B, 163M, 297M, 600M and 6.9M parameters, from left to right; two of them have a compute.
    across = sorted(at_first, key=lambda label: at_first[label][0])
    assert [label for label in across if label != "this run"] == ["5", "X1", "2", "3", "4", "1"]
    assert at_first["1"][1] < at_first["2"][1] < at_first["X1"][1] < at_first["3"][1]
    page.open("tokens=500B")
    moved = marks(page)
    assert moved["this run"][1] < moved["1"][1] and moved["this run"][0] == moved["X1"][0]


def test_the_optimum_is_that_of_the_laws(page: "Page") -> None:
    for state in ("", "preset=gpuburnout-1b&tokens=900B"):
        page.open(state)
        record = by_the_command(page.text("command"))
        N = record["model"]["parameters"]
        C = scaling.FLOPS_PER_PARAMETER_TOKEN * N * record["tokens"]
        sizes = sorted(law.optimal(C)[0] for law in scaling.PUBLISHED)
        nats = sorted(law.overtraining_nats(N, C) for law in scaling.PUBLISHED)
        expected = (
            f"{C:.2e} FLOPs",
            " – ".join(dict.fromkeys(plan_page._short(size, "B") for size in sizes))
            + " parameters",
            " – ".join(dict.fromkeys(f"{each:.3f}" for each in nats)) + " nats",
        )
        for part in expected:
            assert part in page.text("optimum"), part


def test_the_laws_choose_nothing_for_data_they_are_not_about(page: "Page") -> None:
    page.open()
    for preset in PRESETS:
        page.go(f"preset={preset}&tokens_per_s=1")
        record = by_the_command(page.text("command"))
        basis = record["predictions"]["loss_nats_per_token"]["basis"]["en"]
        assert ("would choose" in page.text("optimum")) == ("two published laws" in basis), preset


def test_what_the_reports_state_is_what_the_audit_reads() -> None:
    found = hook.reports()
    assert found["gpuburnout-1b/whole"] == {"parameters": 1e9, "tokens": 11.8e9}
    assert found["163m-3090/163m"] == {"parameters": 163e6, "tokens": 3.2e9}
    assert found["tmlm/opus"] == {"parameters": 6e8, "tokens": None}


def test_the_pages_prose_has_the_packages_numbers() -> None:
    for name, days in (("planner.md", "days"), ("planner.es.md", "días")):
        prose = (DOCS / name).read_text("utf-8")
        assert f"{money.STALE_AFTER_DAYS} {days}" in prose
        assert f"{predict.TYPED_SPREAD:.0%}" in prose
        assert f"{money.ALERT_FRACTION:.0%}" in prose


def test_the_site_is_built_without_the_trainers_packages() -> None:
    """`make site` installs neither torch nor what only training and its commands need."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys("
        "('torch', 'tokenizers', 'datasets', 'typer', 'matplotlib', 'safetensors')));"
        "sys.path.insert(0, 'docs'); import hooks_planner;"
        "print(len(hooks_planner.planner_constants('es')['presets']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(PRESETS)
