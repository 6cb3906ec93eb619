"""What `x1 verify` prints: each check with its verdict, then what all of them together show."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from x1.text import say
from x1.verify import VERIFICATION, verify

MARKS = {"holds": "[green]✓[/green]", "refuted": "[red]✗[/red]", "unanswered": "[yellow]?[/yellow]"}
EXIT_CODES = {"done": 0, "rehearsed": 0, "incomplete": 1, "refuted": 1}


def run_verify_command(run: Path, window: int, seed: int | None, as_json: bool) -> int:
    """`x1 verify`; returns the exit code. Raises UserError as `verify.verify` does."""
    result = verify(run, window, seed)
    if as_json:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        show(run, result)
    return EXIT_CODES[result["level"]]


def show(run: Path, result: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False, title_justify="left",
                  title=say("verify.title", run=run))  # fmt: skip
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in result["findings"]:
        name = say(f"verify.check.{finding['check']}")
        table.add_row(MARKS[finding["verdict"]], name, finding["text"])
    console.print(table)
    console.print("\n" + say(f"verify.level_{result['level']}"), style="bold")
    console.print(say("verify.proves"))
    if result["plan_sha256"]:
        console.print(say("verify.publish", digest=result["plan_sha256"]))
    console.print(say("verify.written", path=run / VERIFICATION))
