"""Every sentence a user sees, in English and Spanish, from `en.toml` and `es.toml`.

Code names a sentence by its key (`say("train.resumed", step=120)`); commands, configuration
fields, log keys and ids stay English inside both. A fault a user can mend is a `UserError`,
which carries the key, so the same error reads in either language.
"""

import locale
import os
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "es")
_chosen: str | None = None
_preferred: str | None = None


def set_language(code: str | None) -> None:
    """Fix the language for this process (`--lang`); None goes back to the environment."""
    global _chosen
    if code is not None and code not in LANGUAGES:
        raise UserError("text.unknown_language", language=code, known=", ".join(LANGUAGES))
    _chosen = code


def chosen_language() -> str | None:
    """What --lang named, None if nothing."""
    return _chosen


def prefer_language(code: str | None) -> None:
    """The language to use where neither --lang nor X1_LANG names one: a learner's notebook's."""
    global _preferred
    _preferred = code


def language() -> str:
    """The reader's language: `set_language`, X1_LANG, `prefer_language`, the system's, English."""
    system = (locale.getlocale()[0] or os.environ.get("LANG", ""))[:2].lower()
    for code in (_chosen, os.environ.get("X1_LANG"), _preferred, system):
        if code in LANGUAGES:
            return str(code)
    return "en"


@cache
def catalogue(code: str) -> dict[str, str]:
    """All sentences of one language, keys joined with dots: `{"train.resumed": "..."}`."""
    flat: dict[str, str] = {}

    def flatten(table: dict[str, Any], prefix: str) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    flatten(tomllib.loads(files(__package__).joinpath(f"{code}.toml").read_text("utf-8")), "")
    return flat


def say(key: str, lang: str | None = None, **values: Any) -> str:
    """The sentence `key` in the reader's language, its `{placeholders}` filled from `values`."""
    return catalogue(lang or language())[key].format(**values)


class UserError(Exception):
    """Something the user can mend: printed as one sentence, exit code 2, never a traceback."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(key, values)
        self.key = key
        self.values = values

    def __str__(self) -> str:
        return say(self.key, **self.values)
