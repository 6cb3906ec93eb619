"""Checkpoints harmed in every way there is: python benchmarks/damage.py --out FILE

Two small real runs, alike but for the seed, leave four checkpoints each. Then, again and again, one
or more of the newest are harmed and the run is asked to go on. What must come of it: the harmed
ones are named, the newest one that was left alone is used, its content unchanged; and asked for by
its number, a harmed one is refused in a sentence, with the model as it was.

A pickle under one of our names is harm of the same kind. Where a stranger has also sealed it anew,
so that every checksum holds, there is nothing to go back to by itself: the run is refused in a
sentence. In neither case is it executed.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from kills import SETTINGS
from provenance import provenance

from x1 import checkpoint, config, data, folder, saved, train
from x1.ranks import Ranks
from x1.text import UserError, set_language

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "runs" / "damage"
STEPS = (10, 20, 30, 40)
FILES = (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE)
EXPLODED = SCRATCH / "exploded"

Harm = Callable[[random.Random, Path, Path], None]  # how, the checkpoint, the same of another run


class Bomb:
    """What a malicious pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (EXPLODED,))


def in_a_file(change: Callable[[random.Random, Path], None]) -> Harm:
    """Harm done to one of the three files, drawn by lot."""

    def harm(draw: random.Random, path: Path, other: Path) -> None:
        change(draw, path / draw.choice(FILES))

    return harm


def flip(draw: random.Random, file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    file.write_bytes(raw)


def truncate(draw: random.Random, file: Path) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size))


def lengthen(draw: random.Random, file: Path) -> None:
    with file.open("ab") as end:
        end.write(draw.choice([b"\n", b" ", b"\0", draw.randbytes(draw.randrange(1, 5000))]))


def zero(draw: random.Random, file: Path) -> None:
    """A page that never reached the disk."""
    raw = bytearray(file.read_bytes())
    first = draw.randrange(len(raw)) // 4096 * 4096
    length = len(raw[first : first + 4096])
    raw[first : first + 4096] = b"\0" * length
    file.write_bytes(raw)


def shuffle(draw: random.Random, file: Path) -> None:
    """Two stretches of the file in each other's place."""
    raw = file.read_bytes()
    a, b, c = sorted(draw.sample(range(1, len(raw)), 3))
    file.write_bytes(raw[:a] + raw[b:c] + raw[a:b] + raw[c:])


def replace(draw: random.Random, file: Path) -> None:
    """Something else under the file's name, or nothing."""
    file.unlink()
    kind = draw.randrange(6)
    if kind == 1:
        file.touch()
    elif kind == 2:
        file.mkdir()
    elif kind == 3:
        os.mkfifo(file)
    elif kind == 4:
        file.symlink_to("nowhere")
    elif kind == 5:
        file.symlink_to(file.name)


def other_step(draw: random.Random, path: Path, other: Path) -> None:
    """One or two files of another step of this run."""
    step = draw.choice([s for s in STEPS if path.name != saved.path_of(path, s).name])
    for name in draw.sample(FILES, draw.choice([1, 2])):
        shutil.copyfile(path.with_name(saved.path_of(path, step).name) / name, path / name)


def other_run(draw: random.Random, path: Path, other: Path) -> None:
    """One or two files of the other run's same step."""
    for name in draw.sample(FILES, draw.choice([1, 2])):
        shutil.copyfile(other / name, path / name)


def exchanged(draw: random.Random, path: Path, other: Path) -> None:
    """Two of its own files under each other's names."""
    one, two = draw.sample(FILES, 2)
    (path / one).rename(path / "aside")
    (path / two).rename(path / one)
    (path / "aside").rename(path / two)


def whole_other_step(draw: random.Random, path: Path, other: Path) -> None:
    step = draw.choice([s for s in STEPS if path.name != saved.path_of(path, s).name])
    for name in FILES:
        shutil.copyfile(path.with_name(saved.path_of(path, step).name) / name, path / name)


def whole_other_run(draw: random.Random, path: Path, other: Path) -> None:
    for name in FILES:
        shutil.copyfile(other / name, path / name)


def edited(draw: random.Random, path: Path, other: Path) -> None:
    """One value of state.json changed, in good JSON, by somebody who does not seal it anew."""
    state = json.loads((path / checkpoint.STATE).read_text())
    name = draw.choice(sorted(state))
    state[name] = draw.choice(
        [None, [], {}, "", -1, 10**30, 0.5, True, "x" * 100, [state[name]], {"7": state[name]}]
    )
    folder.write_json(path / checkpoint.STATE, state)


def not_json(draw: random.Random, path: Path, other: Path) -> None:
    """state.json is another kind of text."""
    text = (path / checkpoint.STATE).read_text()
    broken = ["[" * 100_000, "{}", "null", "[]", '"x"', "\ufeff" + text, text + text, text.upper(),
              text.replace("{", '{"step": 0,', 1), text.replace("\n", ""), "NaN"]  # fmt: skip
    (path / checkpoint.STATE).write_text(draw.choice(broken))


def bomb(draw: random.Random, path: Path, other: Path) -> None:
    protocol = draw.randrange(pickle.HIGHEST_PROTOCOL + 1)
    (path / draw.choice(FILES)).write_bytes(pickle.dumps(Bomb(), protocol))


def sealed_bomb(draw: random.Random, path: Path, other: Path) -> None:
    """A pickle by somebody who knows how the checksums are made."""
    state = json.loads((path / checkpoint.STATE).read_text())
    name = draw.choice((checkpoint.MODEL, checkpoint.OPTIMIZER))
    protocol = draw.randrange(pickle.HIGHEST_PROTOCOL + 1)
    (path / name).write_bytes(pickle.dumps(Bomb(), protocol))
    seal(path, {**state, "files": {**state["files"], name: saved.sha256_of(path / name)}})


def sealed_tensors(draw: random.Random, path: Path, other: Path) -> None:
    """Sound files of another shape, sealed anew."""
    state = json.loads((path / checkpoint.STATE).read_text())
    name = draw.choice((checkpoint.MODEL, checkpoint.OPTIMIZER))
    tensors = checkpoint.load_file(path / name)
    key = draw.choice(sorted(tensors))
    if draw.random() < 0.5:
        tensors[f"{key}.more"] = tensors.pop(key)
    else:
        tensors[key] = torch.zeros(7, 3)
    checkpoint.save_tensors(tensors, path / name)
    seal(path, {**state, "files": {**state["files"], name: saved.sha256_of(path / name)}})


def seal(path: Path, state: dict[str, Any]) -> None:
    state = {key: value for key, value in state.items() if key != "checksum"}
    folder.write_json(path / checkpoint.STATE, {**state, "checksum": saved.digest(state)})


# How often, what it is in each language, the harm.
HARMS: tuple[tuple[int, str, str, Harm], ...] = (
    (300, "one bit flipped", "un bit invertido", in_a_file(flip)),
    (180, "a file cut short", "un archivo cortado", in_a_file(truncate)),
    (90, "bytes added to a file", "bytes añadidos a un archivo", in_a_file(lengthen)),
    (90, "a page of zeros", "una página de ceros", in_a_file(zero)),
    (90, "two parts of a file exchanged", "dos partes de un archivo intercambiadas",
     in_a_file(shuffle)),
    (90, "a file gone, empty, a folder, a pipe or a link",
     "un archivo ausente, vacío, o una carpeta, una tubería o un enlace", in_a_file(replace)),
    (60, "files of another step", "archivos de otro paso", other_step),
    (60, "files of another run, same step", "archivos de otra ejecución, mismo paso", other_run),
    (20, "two files under each other's names", "dos archivos con los nombres cambiados", exchanged),
    (20, "a whole checkpoint of another step", "un checkpoint entero de otro paso",
     whole_other_step),
    (20, "a whole checkpoint of another run, same step",
     "un checkpoint entero de otra ejecución, mismo paso", whole_other_run),
    (90, "a value in state.json edited", "un valor de state.json editado", edited),
    (40, "state.json is another text", "state.json es otro texto", not_json),
    (30, "a malicious pickle under our name", "un pickle malicioso con un nombre nuestro", bomb),
    (30, "a malicious pickle, sealed anew", "un pickle malicioso, sellado de nuevo", sealed_bomb),
    (30, "other tensors, sealed anew", "otros tensores, sellados de nuevo", sealed_tensors),
)  # fmt: skip
SEALED = (sealed_bomb, sealed_tensors)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--times", type=float, default=1.0, help="how much of each kind of harm")
    asked = options.parse_args()
    out = asked.out.resolve()
    source = provenance(threads=1)
    torch.set_num_threads(1)
    set_language("en")
    began = time.monotonic()
    run, other = make_runs()
    model, optimizers = empty(run)
    content = {step: bytes_of(saved.path_of(run, step)) for step in STEPS}
    events = (run / folder.EVENTS).read_bytes()
    rows: list[dict[str, Any]] = []
    for times, name, name_es, harm in HARMS:
        draw = random.Random(name)
        seen: Counter[str] = Counter()
        for _ in range(max(1, round(times * asked.times))):
            # Mostly the newest alone; sometimes all but one, or all.
            harmed = STEPS[-draw.choice([1, 1, 1, 1, 2, 3, 4]) :]
            if harm in SEALED:
                harmed = STEPS[-1:]
            for step in harmed:
                harm(draw, saved.path_of(run, step), saved.path_of(other, step))
            harmed = tuple(s for s in harmed if bytes_of(saved.path_of(run, s)) != content[s])
            judge = refused if harm in SEALED else went_back
            seen[judge(run, harmed, model, optimizers)] += 1
            mend(run, content)
            (run / folder.EVENTS).write_bytes(events)
        rows.append({"harm": name, "harm_es": name_es, "ways": seen.total(),
                     "before_used": seen["before used"], "refused": seen["refused"],
                     "loaded": seen["loaded"]})  # fmt: skip
        print(f"{seen.total():5} {name}: {dict(seen)}", file=sys.stderr, flush=True)
        if seen["loaded"] or EXPLODED.exists():
            raise SystemExit(f"{name}: loaded {seen['loaded']}, executed {EXPLODED.exists()}")
    pickle.loads(pickle.dumps(Bomb()))  # the bombs were live
    assert EXPLODED.exists()
    ways = sum(row["ways"] for row in rows)
    record = {
        "format": "x1-measured-1",
        "what": f"checkpoints harmed in {ways} ways: none is loaded",
        "what_es": f"checkpoints dañados de {ways} maneras: no se carga ninguno",
        **source,
        "seconds": round(time.monotonic() - began),
        "harms": rows,
        "totals": [{name: sum(row[name] for row in rows)
                    for name in ("ways", "before_used", "refused", "loaded")}],
    }  # fmt: skip
    folder.write_json(out, record)
    shutil.rmtree(SCRATCH)
    print(json.dumps(record["totals"]))


def make_runs() -> tuple[Path, Path]:
    """Two trained runs with the checkpoints of `STEPS`, that differ in their seed."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    os.chdir(SCRATCH)
    draw = random.Random(0)
    words = ["one", "small", "model", "learns", "the", "words", "of", "a", "tiny", "text"]
    Path("words.txt").write_text(" ".join(draw.choice(words) for _ in range(4000)))
    runs = []
    for seed in (0, 1):
        chosen = config.build(
            "shakespeare-bytes",
            settings=(
                *SETTINGS, f"train.steps={STEPS[-1]}", f"train.seed={seed}", "stability.inject=[]",
                f"checkpoint.every_steps={STEPS[0]}", f"checkpoint.keep={len(STEPS)}",
            ),
            data={"source": "text", "files": ["words.txt"]},
        )  # fmt: skip
        data.prepare(chosen, quiet=True)
        run = Path(f"seed-{seed}").absolute()
        folder.claim(run, chosen)
        with contextlib.redirect_stdout(io.StringIO()):
            assert train.train(run) == 0
        assert checkpoint.steps(run) == list(STEPS)
        runs.append(run)
    return runs[0], runs[1]


def empty(run: Path) -> tuple[torch.nn.Module, list[torch.optim.Optimizer]]:
    """The run's model and optimizers, untrained."""
    ranks = Ranks(0, 1, torch.device("cpu"))
    model, _, optimizers = train.assemble(folder.open_run(run), ranks)
    return model, optimizers


def bytes_of(path: Path) -> dict[str, bytes | None]:
    """What is under each of the three names; None for what is no file."""
    return {name: (path / name).read_bytes() if (path / name).is_file() else None for name in FILES}


def mend(run: Path, content: dict[int, dict[str, bytes | None]]) -> None:
    for step, files in content.items():
        path = saved.path_of(run, step)
        if bytes_of(path) != files:
            shutil.rmtree(path)
            path.mkdir()
            for name, raw in files.items():
                assert raw is not None
                (path / name).write_bytes(raw)


def went_back(
    run: Path, harmed: tuple[int, ...], model: Any, optimizers: list[torch.optim.Optimizer]
) -> str:
    """Go on with the run: is the newest that was left alone used, and each harmed one named?"""
    left = [step for step in STEPS if step not in harmed]
    newest = max(left, default=0)
    expected = [saved.path_of(run, step) for step in sorted(harmed, reverse=True) if step > newest]
    found, named = checkpoint.newest(run)
    said, words = io.StringIO(), io.StringIO()
    recorded = len(folder.events(run, "damaged"))
    begun_again = False
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(words):
        try:
            train.start_attempt(run)
        except UserError as fault:  # all of them another run's: config.toml may have been changed
            begun_again = "No checkpoint in" in str(fault)
    events = [event["path"] for event in folder.events(run, "damaged")[recorded:]]
    if (
        (found.step if found else 0) != newest
        or named != expected
        or any(f"{path} is" not in words.getvalue() for path in expected)
        or events != [path.name for path in expected]
        or (f"step {newest}" not in said.getvalue() and newest)
        or (not newest and "begins again" not in words.getvalue() and not begun_again)
    ):
        return "loaded"
    for step in harmed:
        if not is_refused(run, step, model, optimizers):
            return "loaded"
    if newest:
        checkpoint.restore(run, newest, model, optimizers)
        tensors = checkpoint.load_file(saved.path_of(run, newest) / checkpoint.MODEL)
        if any(not torch.equal(tensors[n], p) for n, p in model.named_parameters()):
            return "loaded"
    return "before used"


def refused(
    run: Path, harmed: tuple[int, ...], model: Any, optimizers: list[torch.optim.Optimizer]
) -> str:
    if all(is_refused(run, step, model, optimizers) for step in harmed):
        return "refused"
    return "loaded"


def is_refused(
    run: Path, step: int, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]
) -> bool:
    """Whether asking for this very checkpoint gives a sentence and leaves the model as it is."""
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    try:
        checkpoint.restore(run, step, model, optimizers)
    except UserError as fault:
        same = all(torch.equal(before[n], p) for n, p in model.named_parameters())
        return same and saved.path_of(run, step).name in str(fault)
    return False


if __name__ == "__main__":
    main()
