"""Every page in a real browser: nothing from elsewhere, no error, narrow, light, dark, readable."""

import re
from pathlib import Path

import pytest
from browser import Browser, chromium, served

ROOT = Path(__file__).parents[1]
NARROW_PX = 360
MOST_BYTES = 500_000
LANGUAGES = {"en": "", "es": "es/"}

# Text that is seen, with the colours it is seen in: each (ratio, needed, text) that is too low.
# A colour that lets others through is laid over what is behind it; 24 px, or 18.66 px in bold,
# counts as large (WCAG 2.2, 1.4.3).
CONTRAST = """
(() => {
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(srgb') ? [...n.slice(0, 3).map(v => v * 255), n[3] ?? 1]
                                         : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
  };
  // A word inside a drawing may stand on a shape drawn before it.
  const shape = (element, box) => {
    if (!(element instanceof SVGElement)) return null;
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const under = [...element.parentElement.children].filter(other => {
      const its = other.getBoundingClientRect();
      return ['circle', 'rect'].includes(other.tagName) && its.left <= x && x <= its.right
             && its.top <= y && y <= its.bottom && getComputedStyle(other).fill !== 'none';
    });
    return under.length ? parse(getComputedStyle(under.at(-1)).fill) : null;
  };
  const opacity = element => {
    let product = 1;
    for (let at = element; at; at = at.parentElement) product *= getComputedStyle(at).opacity;
    return product;
  };
  const low = [], seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || seen.has(element)) continue;
    seen.add(element);
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    if (!element.checkVisibility({visibilityProperty: true})) continue;
    if (element.closest('.formula .read, script, style, noscript')) continue;
    const style = getComputedStyle(element), fill = shape(element, box);
    const back = fill ? over(fill, behind(element)) : behind(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    ink[3] *= opacity(element);
    if (!ink[3]) continue;
    const [a, b] = [light(over(ink, back)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), px = parseFloat(style.fontSize);
    const needed = px >= 24 || (px >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < needed - 0.005)
      low.push([ratio.toFixed(2), needed, element.tagName, element.className,
                node.data.trim().slice(0, 40)].join(' '));
  }
  return [low, seen.size];
})()
"""
# Animations would be read half-way; what is folded is opened, because it is read too.
STILL = """
(() => {
  const style = document.createElement('style');
  style.textContent = '*, ::before, ::after {transition: none !important;'
                    + ' animation: none !important}';
  document.head.append(style);
  document.querySelectorAll('details').forEach(part => part.open = true);
})()
"""
WIDTH = "[document.documentElement.scrollWidth, innerWidth]"
TOO_WIDE = """
[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 5).map(e => e.tagName + '.' + e.className)
"""
IMAGES = "[...document.images].map(image => [new URL(image.src).pathname, image.alt])"
UNLABELLED = """
[...document.querySelectorAll('svg[role=img], [role=region], button, input, select')]
  .filter(e => !e.getAttribute('aria-label') && !e.labels?.length && !e.textContent.trim()
               && !e.title && !e.getAttribute('aria-labelledby') && e.type !== 'hidden'
               && e.checkVisibility())
  .map(e => e.outerHTML.slice(0, 100))
"""
BYTES = """
[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
  .filter(entry => !/\\.(png|jpe?g|webp)$/.test(entry.name))
  .map(entry => [entry.name.split('/').slice(-2).join('/'), entry.encodedBodySize])
"""

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield found


def pages(site: Path, folder: str) -> list[str]:
    """The places of one language's pages, relative to `folder`."""
    found = [path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")]
    found = [f"{place}/" if place != "." else "" for place in found]
    return sorted(
        place.removeprefix(folder)
        for place in found
        if place.startswith("es/") == (folder == "es/")
    )


@pytest.fixture(scope="module")
def visited(site, browser, address):
    """What was found on each page, opened once on a narrow screen: {(language, place): facts}."""
    found = {}
    for language, folder in LANGUAGES.items():
        for place in pages(site, folder):
            browser.size(NARROW_PX)
            browser.scheme("light")
            browser.open(f"{address}{folder}{place}")
            browser.run(STILL)
            facts = {"width": browser.run(WIDTH), "too_wide": browser.run(TOO_WIDE)}
            facts["contrast"] = {"light": browser.run(CONTRAST)}
            browser.scheme("dark")
            facts["contrast"]["dark"] = browser.run(CONTRAST)
            facts["images"] = browser.run(IMAGES)
            facts["unlabelled"] = browser.run(UNLABELLED)
            facts["bytes"] = dict(map(tuple, browser.run(BYTES)))
            facts["requests"], facts["complaints"] = browser.requests, browser.complaints
            found[language, place] = facts
    assert {place for language, place in found if language == "en"} == {
        place for language, place in found if language == "es"
    }
    assert len(found) > 40
    return found


def test_no_page_asks_another_host_or_complains(visited, address):
    for page, facts in visited.items():
        elsewhere = [url for url in facts["requests"] if not url.startswith((address, "data:"))]
        assert len(facts["requests"]) > 3, page
        assert not elsewhere, page
        assert not facts["complaints"], page


def test_no_page_is_wider_than_a_phone(visited):
    for page, facts in visited.items():
        width, window = facts["width"]
        assert window == NARROW_PX and width <= window, (page, width, facts["too_wide"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in(scheme, visited):
    for page, facts in visited.items():
        low, seen = facts["contrast"][scheme]
        assert seen > 10, page
        assert not low, (page, low[:10])


def test_light_and_dark_differ(browser, address):
    shown = []
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.open(f"{address}chapters/00-motivation/")
        shown.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        # A figure has its own light and dark, and takes the scheme of the element that shows it.
        assert browser.run("getComputedStyle(document.images[0]).colorScheme") == "light dark"
    assert shown == ["rgb(255, 255, 255)", "rgb(19, 21, 25)"]


def test_every_image_says_what_it_shows_in_the_pages_language(visited):
    total = 0
    for (language, place), facts in visited.items():
        alts = [alt for _, alt in facts["images"]]
        assert all(len(alt) > 20 for alt in alts), (language, place, alts)
        twins = [alt for _, alt in visited["en", place]["images"]]
        assert len(alts) == len(twins)
        if language == "es":
            assert not set(alts) & set(twins), place
            total += len(alts)
        assert not facts["unlabelled"], (language, place)
    assert total >= 4


def test_a_page_is_light(visited):
    for page, facts in visited.items():
        heaviest = sorted(facts["bytes"].items(), key=lambda item: -item[1])[:4]
        assert sum(facts["bytes"].values()) > 20_000, page
        assert sum(facts["bytes"].values()) <= MOST_BYTES, (page, heaviest)


@pytest.mark.parametrize(
    ("language", "word", "found"), [("en", "loss", "spikes/"), ("es", "pérdida", "es/spikes/")]
)
def test_the_search_finds_a_word_in_its_language(browser, address, language, word, found):
    browser.size(1280)
    browser.open(f"{address}{LANGUAGES[language]}guard/")
    browser.run("document.querySelector('.md-search__input').focus()")
    browser.write(word)
    results = browser.wait_for(
        "(links => links.length && links)"
        "([...document.querySelectorAll('.md-search-result__link')].map(link => link.href))"
    )
    places = [url.removeprefix(address) for url in results]
    assert any(place.startswith(found) for place in places)
    assert all(place.startswith("es/") == (language == "es") for place in places)
    assert browser.complaints == []


@pytest.mark.parametrize("place", ["", "measured/", "chapters/00-motivation/", "reference/plan/"])
def test_the_other_language_is_one_click_away_on_the_same_page(browser, address, place):
    browser.size(1280)
    browser.open(f"{address}{place}")
    for folder, language in (("es/", "es"), ("", "en")):
        browser.run("setTimeout(() => document.querySelector('.x1-language').click())")
        there = f"{address}{folder}{place}"
        browser.wait_for(f"location.href === '{there}' && document.readyState === 'complete'")
        assert browser.run("document.documentElement.lang") == language


def test_a_figures_colours_stand_out_in_both_schemes():
    """They are drawn on the page's own paper; a browser does not look into an image for us."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    style = (ROOT / "docs/stylesheets/x1.css").read_text("utf-8")
    papers = re.findall(r"--paper: (#\w{6})", style)
    figures = sorted((ROOT / "docs/figures").glob("*.svg"))
    assert figures and len(papers) == 2
    for figure in figures:
        palettes = figure.read_text("utf-8").split("</style>")[0].split("@media")
        if 'class="rich-terminal"' in palettes[0]:
            continue  # a terminal's picture has a paper of its own
        assert len(palettes) == 2, figure
        for palette, paper in zip(palettes, papers, strict=True):
            colours = dict(re.findall(r"--([\w-]+): (#\w{6})", palette))
            assert {"ink", "muted", "train"} <= set(colours)
            for name in set(colours) - {"rule", "paper"}:
                a, b = sorted((luminance(colours[name]), luminance(paper)), reverse=True)
                assert (a + 0.05) / (b + 0.05) >= 4.5, (figure, name)
