"""Take each safety check out of the guard, one at a time, and see which test notices:
python benchmarks/guard_checks.py --out docs/measured/guard-checks.json

A check is taken out by changing a line of a copy of the package. The tests named beside it are then
run against the copy; the first that fails has caught it. One that none catches is a hole, and makes
the exit code 1. Without a change the same tests pass: that is run first.

The signal that Linux sends to a trainer whose supervisor was killed is not among them: the keeper
sends the same one a moment later, so that no test can miss either of the two alone.
"""

import argparse
import contextlib
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from provenance import provenance

from x1 import folder

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Check:
    """A safety check: what it does, where it stands, what stands there without it, who notices."""

    what: str
    what_es: str
    module: str
    line: str
    without: str
    tests: str  # of tests/, as pytest takes them


def rule(name: str, condition: str) -> Check:
    return Check(
        f"rule {name}", f"regla {name}", "guard", f"    if {condition}:\n", "    if False:\n",
        "test_guard.py::test_each_rule_stops_and_names_itself",
    )  # fmt: skip


CHECKS = (
    rule("damaged-ledger", "state.ledger_damaged"),
    rule("not-a-number", "not all(math.isfinite(quantity) for quantity in quantities)"),
    rule("negative", "any(quantity < 0 for quantity in quantities)"),
    rule("price", "state.price_usd_per_hour == 0"),
    rule("unread-price", "state.price_age_s > PRICE_UNREAD_S"),
    rule("ceiling", "state.spent_usd + stopping_usd(state) >= state.ceiling_usd"),
    rule("hung-trainer", "state.progress_age_s > state.progress_limit_s"),
    rule("alert-line", "over_alert_line(state) and state.over_alert_s >= ALERT_FOR_S"),
    Check("nobody at the terminal: ask stops", "nadie en la terminal: ask detiene", "guard",
          'state.policy == "ask" and state.attended', 'state.policy == "ask"',
          "test_guard.py::test_policy_of_the_alert_line"),
    Check("15 minutes running", "15 minutos seguidos", "guard",
          "over_alert_line(state) and state.over_alert_s >= ALERT_FOR_S", "over_alert_line(state)",
          "test_guard.py::test_the_alert_line_needs_all_its_conditions"),
    Check("no projection in the first 10 minutes", "sin proyección los primeros 10 minutos",
          "guard", "state.alert_line_usd is None or state.running_s < ALERT_AFTER_S",
          "state.alert_line_usd is None",
          "test_guard.py::test_the_alert_line_needs_all_its_conditions"),
    Check("room to stop below the ceiling", "espacio para parar bajo el tope", "guard",
          "PRICE_RISE * stopping_s +", "0 * stopping_s +",
          "test_guard.py::test_what_is_left_always_pays_for_stopping"),
    Check("room for a price that trebles meanwhile", "espacio si el precio se triplica",
          "guard", "PRICE_RISE * stopping_s +", "stopping_s +",
          "test_guard.py::test_what_is_left_always_pays_for_stopping"),
    Check("room for a price that has risen unread", "espacio si el precio subió sin leerse", "guard",
          "(PRICE_RISE - 1) * price_age_s", "0 * price_age_s",
          "test_guard.py::test_what_is_left_always_pays_for_stopping"),
    Check("each line's checksum", "la suma de cada línea", "ledger",
          '    if line != _seal(ledger.checksum if ledger else GENESIS, body + b"}"):\n',
          "    if False:\n", "test_ledger.py::test_any_changed_byte_is_found_or_is_a_torn_tail"),
    Check("the checksums' chain", "la cadena de sumas", "ledger",
          "hashlib.sha256(previous.encode() + body)", "hashlib.sha256(body)",
          "test_ledger.py::test_lines_moved_about_are_damage"),
    Check("every amount computed again", "cada importe recalculado", "ledger",
          "if any(entry[field] != value for field, value in expected.items()):", "if False:",
          "test_ledger.py::test_a_sealed_lie_is_recomputed"),
    Check("no price of zero or less", "ningún precio que no pase de cero",
          "ledger", "if not (math.isfinite(amount) and amount > 0):", "if False:",
          "test_ledger.py::test_impossible_prices_are_not_written"),
    Check("amounts rounded up", "importes redondeados hacia arriba", "ledger",
          "quantize(NANO_USD, ROUND_CEILING)", 'quantize(NANO_USD, "ROUND_FLOOR")',
          "test_ledger.py::test_reading_gives_back_what_was_written"),
    Check("a rise charged since the last reading", "una subida cargada desde la última lectura",
          "ledger", "return max(rise_usd, Decimal(0))", "return 0 * rise_usd",
          "test_ledger.py::test_a_rise_is_charged_since_the_last_reading"),
    Check("on the disk before going on", "en el disco antes de seguir", "ledger",
          "        os.fsync(descriptor)\n", "        pass\n",
          "test_guard_meter.py::test_every_line_is_on_the_disk_before_anything_goes_on"),
    Check("a full disk leaves the file as it was", "un disco lleno deja el archivo como estaba",
          "ledger", "        os.ftruncate(descriptor, size)\n", "        pass\n",
          "test_ledger.py::test_a_full_disk_leaves_the_file_as_it_was"),
    Check("a torn last line repaired", "una última línea rota reparada", "ledger",
          "        os.truncate(run / LEDGER, ledger.size_bytes)\n", "        pass\n",
          "test_ledger.py::test_a_torn_tail_costs_no_money"),
    Check("nobody else writes", "nadie más escribe", "ledger",
          "    if os.fstat(descriptor).st_size != size:\n", "    if False:\n",
          "test_ledger.py::test_a_file_changed_meanwhile_is_refused"),
    Check("the time nobody watched charged", "cargado el tiempo que nadie vio", "ledger",
          "elapsed_ms = max(elapsed_ms, unwatched_ms(ledger, at))", "elapsed_ms = elapsed_ms",
          "test_ledger.py::test_a_torn_tail_costs_no_money"),
    Check("a clock set back: the larger charge", "reloj atrasado: el cargo mayor", "ledger",
          "    return max(-wall_ms, after.boot_ms)\n", "    return 0\n",
          "test_ledger.py::test_gap"),
    Check("a clock stepped while watched: the larger charge",
          "reloj cambiado a la vista: el cargo mayor", "ledger",
          "wall_ms=ledger.at.wall_ms - ledger.ahead_ms", "wall_ms=ledger.at.wall_ms",
          "test_ledger.py::test_a_step_of_the_wall_clock_within_a_boot_counts_as_the_longer_gap"),
    Check("a rented machine that was not given back is charged",
          "se carga la máquina alquilada que no se devolvió", "ledger",
          "if not ledger.closed or (machine_start and ledger.at.boot_id == at.boot_id):",
          "if not ledger.closed:",
          "test_ledger.py::test_after_close_only_a_rented_machine_still_up_costs"),
    Check("no more reserved than is left", "no se reserva más de lo que queda", "ledger",
          "    if usd > left:\n", "    if False:\n",
          "test_ledger.py::test_no_more_is_reserved_than_is_left"),
    Check("the maximum reserved", "el máximo reservado", "supervise",
          "    book = ledger.reserve(run, book, at, reserve_usd)\n", "",
          "test_guard_meter.py::test_the_most_is_reserved_before_anything_starts"),
    Check("the plan is the one of the first line", "el plan es el de la primera línea", "supervise",
          "        if ledger.read_ledger(run).plan_sha256 != digest:\n", "        if False:\n",
          "test_supervise.py::test_another_plan_is_refused"),
    Check("a run that has trained has a ledger", "quien ya entrenó tiene libro", "supervise",
          "    elif (run / folder.METRICS).exists():\n", "    elif False:\n",
          "test_supervise.py::test_nothing_starts_when_the_ledger_has_vanished"),
    Check("lines cut off are missed", "las líneas cortadas se echan en falta", "supervise",
          "        check_witnesses(run)\n", "",
          "test_guard_meter.py::test_lines_cut_off_are_missed_by_a_checkpoint"),
    Check("the ledger read again every 15 minutes", "el libro releído cada 15 minutos", "supervise",
          "        check_ledger(meter)\n", "",
          "test_supervise.py::test_a_same_size_edit_is_found_within_15_minutes"),
    Check("a line that cannot be written is damage", "una línea que no se puede escribir es daño",
          "supervise", "        meter.ledger = line()\n    except (UserError, OSError):\n"
          "        meter.damaged = True\n",
          "        meter.ledger = line()\n    except (UserError, OSError):\n        pass\n",
          "test_guard_meter.py::test_a_line_by_another_hand_stops_the_run"),
    Check("the price read again every 15 minutes", "el precio releído cada 15 minutos", "supervise",
          "        read_price(meter, at)\n\n\ndef check_ledger", "\n\ndef check_ledger",
          "test_supervise.py::test_the_price_is_read_again_every_15_minutes"),
    Check("the price read at a restart", "el precio leído al arrancar de nuevo", "supervise",
          "        book = ledger.set_price(run, book, at, read)\n", "",
          "test_guard_meter.py::test_a_restart_reads_the_price_and_charges_the_rise"),
    Check("nonsense from the source reaches the guard", "lo imposible de la fuente llega al guardián",
          "supervise", "= at.boot_ms, read.usd_per_hour\n", "= at.boot_ms, meter.usd_per_hour\n",
          "test_guard_meter.py::test_a_source_that_says_nonsense_stops_the_run_at_once"),
    Check("a silent source grows old", "una fuente callada envejece", "supervise",
          "price_age_s=(at.boot_ms - meter.price_read_ms) / 1000", "price_age_s=0.0",
          "test_supervise.py::test_a_price_nobody_can_read_stops_the_run_within_the_hour"),
    Check("the price read again at the ceiling", "el precio releído en el tope", "supervise",
          'decision.rule == "ceiling" and state.price_age_s > 0', "False",
          "test_guard_meter.py::test_at_the_ceiling_an_old_price_is_read_again"),
    Check("a question nobody answers", "una pregunta que nadie contesta", "supervise",
          "or now_s - asked_s < guard.ANSWER_S", "or True",
          "test_guard_meter.py::test_a_question_nobody_answers_is_not_attended"),
    Check("an unbroken crossing of the alert line", "un cruce continuo de la línea de alerta",
          "supervise", "        meter.over_alert_since_s = meter.asked_since_s = None\n", "",
          "test_supervise.py::test_the_alert_line_counts_only_an_unbroken_crossing"),
    Check("nothing starts when the guard says stop", "nada empieza si el guardián dice que no",
          "supervise", '            if decision.action == "stop":\n                why',
          "            if False:\n                why",
          "test_supervise.py::test_the_ceiling_ends_a_run_with_a_checkpoint"),
    Check("SIGKILL after the time to stop", "SIGKILL tras el plazo para parar", "supervise",
          "            kill_at_s = time.monotonic() + STOPPING_S\n", "",
          "test_supervise.py::test_a_trainer_deaf_to_sigterm_is_killed_below_the_ceiling"),
    Check("the ladder's dollars out of the alert line", "los dólares de la escalera fuera de la alerta",
          "supervise", 'if ladder and ladder["value"] and not config.money.counted:', "if False:",
          "test_deadman.py::test_the_ladders_dollars_are_in_the_account_once"),
    Check("the ladder's dollars carried in", "los dólares de la escalera anotados", "supervise",
          "        book = ledger.carry(run, book, at, other.spent_usd, str(where))\n",
          "        pass\n",
          "test_deadman.py::test_the_ladders_dollars_are_in_the_account_once"),
    Check("set-up charged from the machine's start", "la preparación cargada desde el arranque",
          "supervise", "began = at if own else deadman.machine_started(at, [book for _, book in spent])",
          "began = at", "test_deadman.py::test_set_up_is_charged_from_the_machines_first_process"),
    Check("no launch without a dead-man's limit", "sin límite de hombre muerto no se lanza", "deadman",
          "    if not i_will_watch:\n", "    if False:\n",
          "test_deadman.py::test_a_rented_run_is_refused_before_a_trainer_starts"),
    Check("a timer on the machine itself does not count", "un temporizador en la misma máquina no vale",
          "deadman", ' and armed["boot_id"] != at.boot_id', "",
          "test_deadman.py::test_a_timer_counts_if_it_runs_elsewhere"),
    Check("a timer that is over does not count", "un temporizador vencido no vale", "deadman",
          "        if hours > 0:\n", "        if True:\n",
          "test_deadman.py::test_a_timer_counts_if_it_runs_elsewhere"),
    Check("a provider's limit must be paid for", "el límite del proveedor debe estar pagado", "deadman",
          "        if lifetime - age_hours > left_hours:\n", "        if False:\n",
          "test_deadman.py::test_a_providers_limit_must_be_paid_for"),
    Check("the timer keeps what ending costs", "el temporizador guarda lo que cuesta apagar", "deadman",
          "return limit.left_usd <= guard.at_risk_usd(limit.usd_per_hour, END_S, limit.unread_s)",
          "return limit.left_usd <= 0", "test_deadman.py::test_a_limit_counts_and_keeps_what_ending_costs"),
    Check("the timer charges a rise since its last reading", "el temporizador carga la subida",
          "deadman", "    rise_usd = (dearest - limit.usd_per_hour) * unread_s / 3600\n",
          "    rise_usd = 0.0\n", "test_deadman.py::test_a_limit_never_counts_less_than_was_owed"),
    Check("the timer charges missing readings at three times",
          "el temporizador carga al triple lo que no leyó", "deadman",
          "    if unread_s > guard.PRICE_EVERY_S:\n", "    if False:\n",
          "test_deadman.py::test_a_limit_counts_and_keeps_what_ending_costs"),
    Check("the timer tries until it succeeds", "el temporizador insiste hasta lograrlo", "deadman",
          "while (code := stop_machine(config.money.stop_command)) != 0:",
          "while (code := stop_machine(config.money.stop_command)) not in (0, 1):",
          "test_deadman.py::test_the_timer_runs_the_command_until_it_succeeds"),
    Check("a limit is never extended", "un límite nunca se alarga", "deadman",
          '    if state.get("status") == "armed" and is_running(state):\n', "    if False:\n",
          "test_deadman.py::test_arm_and_disarm"),
    Check("the next machine goes on from the last timer", "la siguiente máquina sigue la cuenta",
          "deadman", '        left = min(left, state["left_usd"])\n', "        pass\n",
          "test_deadman.py::test_arm_and_disarm"),
    Check("the keeper asks", "el guarda pide", "keeper", "signals = [signal.SIGTERM]",
          "signals: list[signal.Signals] = []",
          "test_deadman.py::test_a_trainer_without_supervisor_is_asked_and_then_killed"),
    Check("the keeper kills", "el guarda mata", "keeper",
          "                os.killpg(pid, signal.SIGKILL)\n", "                pass\n",
          "test_deadman.py::test_a_trainer_without_supervisor_is_asked_and_then_killed"),
    Check("the keeper hears silence", "el guarda oye el silencio", "keeper",
          "select.select([0], [], [], silent_s)", "select.select([0], [], [])",
          "test_deadman.py::test_a_trainer_without_supervisor_is_asked_and_then_killed"),
    Check("a source has a time limit", "una fuente tiene plazo", "price",
          "    thread.join(seconds)\n", "    thread.join()\n",
          "test_price.py::test_a_source_that_hangs_is_unreadable_in_time"),
    Check("no price without encryption", "ningún precio sin cifrar", "price",
          'if parts.scheme != "https" and not', "if False and not",
          "test_price.py::test_nothing_is_asked_without_encryption"),
)  # fmt: skip


def run_tests(package: Path, tests: list[str]) -> str | None:
    """Run tests against a copy of the package in a fork; the first that fails, or None."""
    output = package.parent / "output"
    pid = os.fork()
    if pid == 0:
        with output.open("w") as file, contextlib.redirect_stdout(file):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            for name in [name for name in sys.modules if name.split(".")[0] == "x1"]:
                del sys.modules[name]
            sys.path.insert(0, str(package.parent))
            os.environ["PYTHONPATH"] = str(package.parent)
            pytest = importlib.import_module("pytest")
            importlib.import_module("x1")
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--timeout=120", *tests])
            file.flush()
        os._exit(int(code))
    _, status = os.waitpid(pid, 0)
    text = output.read_text("utf-8", "replace")
    if os.waitstatus_to_exitcode(status) == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", text, re.MULTILINE)
    if not failed:
        raise RuntimeError(text[-2000:])
    return failed[1]


def without(check: Check, place: Path) -> Path:
    """A copy of the package without the check."""
    package = place / "x1"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src/x1", package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / f"{check.module}.py"
    source = path.read_text("utf-8")
    if source.count(check.line) != 1:
        raise SystemExit(f"{check.what}: stands {source.count(check.line)} times in {path.name}")
    path.write_text(source.replace(check.line, check.without), "utf-8")
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    importlib.import_module("hypothesis")
    importlib.import_module("pydantic")
    importlib.import_module("typer")
    checks = [check for check in CHECKS if chosen.only in check.what]
    rows, began_s = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder_name:
        place = Path(folder_name)
        for check in checks:
            without(check, place)
        package = place / "x1"
        shutil.rmtree(package)
        shutil.copytree(ROOT / "src/x1", package, ignore=shutil.ignore_patterns("__pycache__"))
        tests = sorted({f"tests/{check.tests}" for check in checks})
        if failed := run_tests(package, tests):
            raise SystemExit(f"fails without any change: {failed}")
        for check in checks:
            caught = run_tests(without(check, place), [f"tests/{check.tests}"])
            print(f"{check.what:60} {caught or 'NOT CAUGHT'}", flush=True)
            rows.append({
                "check": check.what, "comprobacion": check.what_es,
                "module": f"{check.module}.py",
                "caught_by": caught.rpartition("::")[2].partition("[")[0] if caught else "—",
            })  # fmt: skip
    holes = [row["check"] for row in rows if row["caught_by"] == "—"]
    if chosen.out:
        words = {
            "what": "Each safety check of the guard taken out in turn, and the test that notices",
            "what_es": "Cada comprobación de seguridad del guardián, quitada una a una, y la prueba "
            "que lo nota",
        }
        summary = [{"checks": len(rows), "caught": len(rows) - len(holes)}]
        folder.write_json(
            chosen.out, {**words, **provenance(1), "holes": holes, "summary": summary, "rows": rows}
        )
    print(f"{len(rows) - len(holes)} of {len(rows)} caught, {time.monotonic() - began_s:.0f} s")
    sys.exit(1 if holes else 0)


if __name__ == "__main__":
    main()
