"""The command `x1`. Each verb takes a run's folder; heavy modules are imported by the verb that
needs them, so that `--help` and a refusal answer at once.
"""

import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import rich_utils

from x1 import config as configuration
from x1 import folder
from x1.config import RunConfig
from x1.text import UserError, language, say, set_language

RUNS = Path("runs")
console = Console(highlight=False, markup=False, soft_wrap=True)


def build_app() -> typer.Typer:
    """The verbs, their help in the reader's language, in panels."""
    rich_utils.OPTIONS_PANEL_TITLE = say("cli.panel_options")
    rich_utils.ARGUMENTS_PANEL_TITLE = say("cli.panel_arguments")
    app = typer.Typer(
        name="x1",
        help=say("cli.help"),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def verb(name: str, panel: str, command: Any) -> None:
        app.command(name, help=say(f"cli.{name}"), rich_help_panel=say(f"cli.panel_{panel}"))(
            command
        )

    @app.callback()
    def common(
        lang: Annotated[str | None, typer.Option("--lang", help=say("cli.lang"))] = None,
    ) -> None:
        """Only shown: `main` has read --lang already, wherever it stands."""

    preset_option = typer.Option(help=say("cli.preset", presets=", ".join(configuration.PRESETS)))
    file_option = typer.Option("--config", help=say("cli.config"), metavar="FILE")
    set_option = typer.Option("--set", help=say("cli.set"), metavar="SECTION.FIELD=VALUE")
    run_argument = typer.Argument(help=say("cli.run"), metavar="RUN")
    text_option = typer.Option("--text", help=say("cli.text"), metavar="FILE")
    dataset_option = typer.Option(help=say("cli.dataset"), metavar="HF_NAME")
    ladder_argument = typer.Argument(help=say("cli.ladder_name", names="cpu, x1, small"))
    ladder_file_option = typer.Option("--config", help=say("cli.ladder_config"), metavar="FILE")
    ladder_text_option = typer.Option("--text", help=say("cli.ladder_text"), metavar="FILE")

    lab_argument = typer.Argument(help=say("cli.lab_number"), metavar="N", min=0)
    exercise_argument = typer.Argument(help=say("cli.exercise_id"), metavar="EXERCISE")

    def start(
        lab: Annotated[int, lab_argument],
        update: Annotated[bool, typer.Option("--update", help=say("cli.update"))] = False,
        carry_from: Annotated[
            Path | None, typer.Option("--from", help=say("cli.from"), metavar="FILE")
        ] = None,
    ) -> None:
        from x1.course.learn import run_start_command

        run_start_command(lab, update, carry_from)

    def grade(
        lab: Annotated[int, lab_argument],
        watch: Annotated[bool, typer.Option("--watch", help=say("cli.grade_watch"))] = False,
    ) -> None:
        from x1.course.learn import run_grade_command

        raise typer.Exit(run_grade_command(lab, watch))

    def hint(
        lab: Annotated[int, lab_argument],
        exercise: Annotated[str | None, exercise_argument] = None,
    ) -> None:
        from x1.course.learn import run_hint_command

        run_hint_command(lab, exercise)

    def solution(
        lab: Annotated[int, lab_argument],
        exercise: Annotated[str | None, exercise_argument] = None,
        give_up: Annotated[bool, typer.Option("--give-up", help=say("cli.give_up"))] = False,
    ) -> None:
        from x1.course.learn import run_solution_command

        run_solution_command(lab, exercise, give_up)

    def status(
        regrade: Annotated[bool, typer.Option("--regrade", help=say("cli.regrade"))] = False,
    ) -> None:
        from x1.course.board import run_status_command

        run_status_command(regrade)

    def reset(lab: Annotated[int, lab_argument]) -> None:
        from x1.course.learn import run_reset_command

        run_reset_command(lab)

    def plan(
        preset: Annotated[str | None, preset_option] = None,
        gpu: Annotated[str | None, typer.Option(help=say("cli.gpu"))] = None,
        price_usd_per_hour: Annotated[str | None, typer.Option(help=say("cli.price"))] = None,
        tokens: Annotated[str | None, typer.Option(help=say("cli.tokens"))] = None,
        mfu: Annotated[str | None, typer.Option(help=say("cli.mfu"))] = None,
        tokens_per_s: Annotated[str | None, typer.Option(help=say("cli.tokens_per_s"))] = None,
        measured: Annotated[
            Path | None, typer.Option(help=say("cli.measured"), metavar="FILE")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help=say("cli.json"))] = False,
        out: Annotated[Path | None, typer.Option(help=say("cli.plan_out"))] = None,
        config: Annotated[Path | None, file_option] = None,
        set_: Annotated[list[str] | None, set_option] = None,
    ) -> None:
        from x1.plan_page import measure, run_plan_command

        run_plan_command(
            chosen_config(preset, config, set_, None, None),
            today=date.today(),
            gpu=gpu,
            price_usd_per_hour=price_usd_per_hour,
            tokens=tokens,
            mfu=mfu,
            tokens_per_s=tokens_per_s,
            measured=measured,
            as_json=as_json,
            out=out,
            calibrate=measure,
        )

    def cases(
        name: Annotated[str | None, typer.Argument(help=say("cli.case"), metavar="NAME")] = None,
        file: Annotated[
            Path | None, typer.Option("--file", help=say("cli.cases_file"), metavar="FILE")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help=say("cli.audit_json"))] = False,
    ) -> None:
        from x1.cases import run_cases_command

        run_cases_command(name, file=file, as_json=as_json)

    def data(
        run: Annotated[Path | None, typer.Argument(help=say("cli.data_run"), metavar="RUN")] = None,
        preset: Annotated[str | None, preset_option] = None,
        text: Annotated[list[Path] | None, text_option] = None,
        dataset: Annotated[str | None, dataset_option] = None,
        config: Annotated[Path | None, file_option] = None,
        set_: Annotated[list[str] | None, set_option] = None,
    ) -> None:
        from x1 import data as preparation

        if run is not None and (preset or text or dataset or config or set_):
            raise UserError("cli.data_run_alone")
        if run is not None:
            chosen = folder.open_run(run)
        else:
            chosen = chosen_config(preset, config, set_, text, dataset)
        console.print(say("cli.data_ready", path=preparation.prepare(chosen)))

    def train(
        preset: Annotated[str | None, preset_option] = None,
        text: Annotated[list[Path] | None, text_option] = None,
        dataset: Annotated[str | None, dataset_option] = None,
        out: Annotated[Path | None, typer.Option(help=say("cli.out"))] = None,
        config: Annotated[Path | None, file_option] = None,
        set_: Annotated[list[str] | None, set_option] = None,
        resume_from: Annotated[
            str | None, typer.Option(help=say("cli.resume_from"), metavar="URI")
        ] = None,
        allow_commands: Annotated[
            bool, typer.Option("--allow-commands", help=say("cli.allow_commands"))
        ] = False,
        i_will_watch: Annotated[
            bool, typer.Option("--i-will-watch", help=say("cli.i_will_watch"))
        ] = False,
    ) -> None:
        from x1 import data as preparation
        from x1 import launch as launching

        named = preset or config or set_ or text or dataset
        if resume_from:
            if named:
                raise UserError("cli.resume_alone")
            from x1 import mirror

            out = out or new_run("resumed")
            mirror.restore(resume_from, out, allow_commands)
        if out is not None and out.exists() and not named:
            chosen = folder.open_run(out)
        else:
            chosen = chosen_config(preset, config, set_, text, dataset)
        run = out or new_run(chosen.preset)
        folder.check_claim(run, chosen)
        launching.require_here(run)
        preparation.prepare(chosen)
        folder.claim(run, chosen)
        console.print(say("cli.training", run=run))
        raise typer.Exit(launching.train(run, i_will_watch))

    def launch(
        run: Annotated[Path, run_argument],
        on: Annotated[str | None, typer.Option(help=say("cli.launch_on"))] = None,
        confirm: Annotated[
            str | None, typer.Option(help=say("cli.launch_confirm"), metavar="SENTENCE")
        ] = None,
        over_budget: Annotated[
            str | None, typer.Option(help=say("cli.launch_over_budget"), metavar="SENTENCE")
        ] = None,
        accept_old_price: Annotated[
            bool, typer.Option("--accept-old-price", help=say("cli.launch_old_price"))
        ] = False,
        i_will_watch: Annotated[
            bool, typer.Option("--i-will-watch", help=say("cli.i_will_watch"))
        ] = False,
        attach: Annotated[bool, typer.Option("--attach", help=say("cli.launch_attach"))] = False,
        detach: Annotated[bool, typer.Option("--detach", help=say("cli.launch_detach"))] = False,
        stop: Annotated[bool, typer.Option("--stop", help=say("cli.launch_stop"))] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help=say("cli.launch_dry_run"))] = False,
        directory: Annotated[
            str | None, typer.Option("--dir", help=say("cli.launch_dir"), metavar="FOLDER")
        ] = None,
        python: Annotated[
            str | None, typer.Option(help=say("cli.launch_python"), metavar="PATH")
        ] = None,
        ssh_config: Annotated[
            Path | None, typer.Option(help=say("cli.launch_ssh_config"), metavar="FILE")
        ] = None,
        secret: Annotated[
            list[str] | None, typer.Option(help=say("cli.launch_secret"), metavar="NAME")
        ] = None,
    ) -> None:
        from x1 import launch as launching

        asked = launching.Asked(
            on, confirm, over_budget, accept_old_price, i_will_watch, attach, detach, stop,
            dry_run, directory, python, ssh_config, tuple(secret or ()),
        )  # fmt: skip
        raise typer.Exit(launching.launch(run, asked, date.today()))

    def rehearse(
        out: Annotated[Path | None, typer.Option(help=say("cli.out"))] = None,
    ) -> None:
        from x1 import rehearse as rehearsal

        raise typer.Exit(rehearsal.rehearse(out or new_run("rehearsal")))

    def watch(
        target: Annotated[str, typer.Argument(help=say("cli.watch_target"), metavar="RUN")],
        as_json: Annotated[bool, typer.Option("--json", help=say("cli.watch_json"))] = False,
        follow: Annotated[bool, typer.Option("--follow", help=say("cli.watch_follow"))] = False,
        ssh_config: Annotated[
            Path | None,
            typer.Option("--ssh-config", help=say("cli.launch_ssh_config"), metavar="FILE"),
        ] = None,
    ) -> None:
        from x1.watch_command import run_watch_command

        raise typer.Exit(run_watch_command(target, as_json, follow, ssh_config))

    def replay(
        run: Annotated[Path, run_argument],
        step: Annotated[int | None, typer.Option(help=say("cli.replay_step"))] = None,
        attempt: Annotated[int | None, typer.Option(help=say("cli.replay_attempt"))] = None,
        batch_only: Annotated[
            bool, typer.Option("--batch-only", help=say("cli.batch_only"))
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help=say("cli.replay_json"))] = False,
    ) -> None:
        folder.open_run(run)  # what is not a run is refused before torch is imported
        if step is None:
            raise UserError("replay.no_step")
        if not folder.events(run, "start"):
            raise UserError("replay.untouched", run=run)
        from x1.replay_page import run_replay_command

        run_replay_command(run, step, attempt, batch_only, as_json)

    def evaluate(
        run: Annotated[Path, run_argument],
        step: Annotated[int | None, typer.Option(help=say("cli.step"))] = None,
    ) -> None:
        folder.open_run(run)  # what is not a run is refused before torch is imported
        from x1 import evaluate as evaluation

        console.print(evaluation.describe(evaluation.evaluate(run, step)))

    def export(
        run: Annotated[Path, run_argument],
        step: Annotated[int | None, typer.Option(help=say("cli.step"))] = None,
    ) -> None:
        folder.open_run(run)
        from x1 import export as artefact

        console.print(say("cli.exported", path=artefact.export(run, step)))

    def verify(
        run: Annotated[Path, run_argument],
        window: Annotated[int, typer.Option(min=0, help=say("cli.verify_window"))] = 20,
        seed: Annotated[int | None, typer.Option(help=say("cli.verify_seed"))] = None,
        as_json: Annotated[bool, typer.Option("--json", help=say("cli.verify_json"))] = False,
    ) -> None:
        folder.open_run(run)
        from x1.verify_page import run_verify_command

        raise typer.Exit(run_verify_command(run, window, seed, as_json))

    def ladder(
        name: Annotated[str | None, ladder_argument] = None,
        config: Annotated[Path | None, ladder_file_option] = None,
        text: Annotated[list[Path] | None, ladder_text_option] = None,
        out: Annotated[Path | None, typer.Option(help=say("cli.ladder_out"))] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help=say("cli.dry_run"))] = False,
        as_json: Annotated[bool, typer.Option("--json", help=say("cli.ladder_json"))] = False,
    ) -> None:
        from x1.ladder_climb import run_ladder_command

        code = run_ladder_command(name, config, text, out, dry_run, as_json, new_run)
        raise typer.Exit(code)

    def report(
        run: Annotated[Path, run_argument],
        kind: Annotated[str, typer.Option("--as", help=say("cli.report_as"))] = "page",
        step: Annotated[int | None, typer.Option(help=say("cli.report_step"))] = None,
        replay: Annotated[
            Path | None, typer.Option(help=say("cli.report_replay"), metavar="FILE")
        ] = None,
    ) -> None:
        folder.open_run(run)
        if kind == "page":
            from x1.report import write_report

            path = write_report(run, language())
        elif kind == "portfolio":
            from x1.portfolio import write_portfolio

            path = write_portfolio(run, language())
        elif kind != "postmortem":
            raise UserError("cli.unknown_report", kind=kind)
        elif step is None:
            raise UserError("postmortem.no_step")
        else:
            from x1.postmortem import write_postmortem

            path = write_postmortem(run, step, replay)
        console.print(say("cli.reported", path=path))

    verb("start", "learn", start)
    verb("grade", "learn", grade)
    verb("hint", "learn", hint)
    verb("solution", "learn", solution)
    verb("status", "learn", status)
    verb("reset", "learn", reset)
    verb("plan", "plan", plan)
    verb("cases", "plan", cases)
    verb("ladder", "plan", ladder)
    verb("data", "plan", data)
    verb("rehearse", "run", rehearse)
    verb("train", "run", train)
    verb("watch", "run", watch)
    verb("launch", "run", launch)
    verb("replay", "run", replay)
    verb("eval", "after", evaluate)
    verb("export", "after", export)
    verb("verify", "after", verify)
    verb("report", "after", report)
    app.add_typer(
        author_app(),
        name="author",
        help=say("cli.author"),
        rich_help_panel=say("cli.panel_authors"),
    )
    return app


def author_app() -> typer.Typer:
    """`x1 author build` and `x1 author check`."""
    author = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    lab_argument = typer.Argument(help=say("cli.author_lab"), metavar="N")
    pair_option = typer.Option(help=say("cli.acknowledge"), metavar="PAIR")

    @author.command(help=say("cli.author_build"))
    def build(lab: Annotated[int | None, lab_argument] = None) -> None:
        from x1.course.author import run_build_command

        run_build_command(lab)

    @author.command(help=say("cli.author_check"))
    def check(
        lab: Annotated[int | None, lab_argument] = None,
        seeds: Annotated[int, typer.Option(min=1, help=say("cli.author_seeds"))] = 200,
        acknowledge: Annotated[str | None, pair_option] = None,
    ) -> None:
        from x1.course.author import run_check_command

        raise typer.Exit(run_check_command(lab, seeds, acknowledge))

    return author


def chosen_config(
    preset: str | None,
    file: Path | None,
    settings: list[str] | None,
    text: list[Path] | None,
    dataset: str | None,
) -> RunConfig:
    """The configuration the options describe; `--text` and `--dataset` name its source."""
    if text and dataset:
        raise UserError("cli.text_and_dataset")
    sections: dict[str, Any] = {}
    if text:
        sections["data"] = {"source": "text", "files": [str(path) for path in text]}
    if dataset:
        sections["data"] = {"source": "dataset", "dataset": dataset}
    if preset is None and file is None:
        raise UserError("cli.no_preset", presets=", ".join(configuration.PRESETS))
    return configuration.build(preset, file, tuple(settings or ()), **sections)


def new_run(preset: str) -> Path:
    """A folder under runs/ that is not there yet: preset, date, counter."""
    stem = f"{preset}-{date.today():%Y%m%d}"
    counter = 1
    while (RUNS / f"{stem}-{counter}").exists():
        counter += 1
    return RUNS / f"{stem}-{counter}"


def take_language(arguments: list[str]) -> None:
    """Obey and remove `--lang CODE` anywhere on the command line, before any help is made."""
    for position, argument in enumerate(arguments):
        if argument.startswith("--lang"):
            _, equals, code = argument.partition("=")
            last = position + (1 if equals else 2)
            set_language(code or "".join(arguments[position + 1 : last]))
            del arguments[position:last]
            return


def main() -> None:
    """The entry point: what a user can mend is one sentence on stderr and exit code 2."""
    try:
        take_language(sys.argv)
        build_app()()
    except UserError as fault:
        print(fault, file=sys.stderr)
    except OSError as fault:
        print(folder.disk_fault(fault), file=sys.stderr)
    except KeyboardInterrupt:
        print(say("cli.interrupted"), file=sys.stderr)
        sys.exit(130)
    sys.exit(2)
