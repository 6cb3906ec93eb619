"""The process a notebook's code is graded in, and the one that watches it.

    grade.py ── job on stdin ──> this process: collects the lab's tests once, runs no graded code
             <── outcomes ─────     └── a worker per exercise, killed at its limits

A worker is a fork of this process, so torch is imported once, if at all; where forking a process
with torch in it is not safe (macOS), it is a new one. It writes its outcomes on a pipe, each sealed
with a secret that graded code is never given; what is not sealed is not believed.
"""

import hashlib
import hmac
import json
import os
import resource
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from x1.text import say, set_language

TICK_S = 0.1
GRACE_S = 2.0  # after a limit, for the worker to say itself which line it was at
KEPT_BYTES = 4000  # of what graded code prints
FLOOD_TURN_BYTES = 1_000_000  # read at one go; then the limits are looked at again
IMPORTS_BYTES = 1_000_000_000  # what torch and the grader may have in memory themselves
NO_TESTS = 5  # pytest's exit code

Case = dict[str, Any]
Job = dict[str, Any]


@dataclass
class Worker:
    """A process at work on cases of one exercise, and what has been heard of it."""

    pid: int
    results: int
    output: int
    secret: bytes
    process: subprocess.Popen[bytes] | None = None
    heard: bytes = b""
    printed: bytes = b""
    printed_bytes: int = 0
    answered: list[dict[str, Any]] = field(default_factory=list)
    why: str | None = None  # why it was killed: a key under [grade]


def main(arguments: list[str]) -> int:
    """`python -m x1.course.child ROLE DESCRIPTOR`, its job as JSON on stdin."""
    role, descriptor = arguments[0], int(arguments[1])
    job: Job = json.loads(sys.stdin.buffer.read())
    set_language(job["lang"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if role == "spawn":
        deliver(descriptor, supervise(job, lambda cases: spawned(job, cases)))
        return 0

    from x1.course.grading import Grader, collect

    def loop(grader: Grader) -> None:
        if role == "worker":
            end(lambda: work(grader, job, job["cases"], descriptor, job["secret"].encode()))
        deliver(descriptor, supervise(job, lambda cases: forked(grader, job, cases, descriptor)))

    code = collect(job, Grader(job, loop))
    return 0 if code == NO_TESTS else code


def deliver(descriptor: int, outcomes: Iterator[dict[str, Any]]) -> None:
    for outcome in outcomes:
        os.write(descriptor, json.dumps(outcome).encode() + b"\n")


def supervise(job: Job, start: Callable[[list[Case]], Worker]) -> Iterator[dict[str, Any]]:
    """An outcome for each case, in order. A worker that dies is replaced for the cases after."""
    for _, group in groupby(job["cases"], key=lambda case: case["exercise"]):
        cases = list(group)
        while cases:
            worker = start(cases)
            try:
                yield from watch(worker, job, len(cases))
            finally:
                code = reap(worker)
            del cases[: len(worker.answered)]
            left_early = worker.answered and worker.answered[-1]["spoiled"] and not worker.why
            if cases and not left_early:
                yield died(worker, job, cases.pop(0), code)


def watch(worker: Worker, job: Job, count: int) -> Iterator[dict[str, Any]]:
    """The outcomes of `count` cases, until the worker ends or passes a limit."""
    began = time.monotonic()
    with selectors.DefaultSelector() as ends:
        ends.register(worker.results, selectors.EVENT_READ)
        ends.register(worker.output, selectors.EVENT_READ)
        while len(worker.answered) < count and worker.why is None:
            if os.getppid() != job["parent"]:  # nobody is left to hear the outcome
                sys.exit(1)
            ready = {key.fd for key, _ in ends.select(TICK_S)}
            if worker.output in ready and not listen(worker):
                ends.unregister(worker.output)
            if worker.results in ready:
                data = os.read(worker.results, 65536)
                if not data:
                    return
                worker.heard += data
                for outcome in opened(worker):
                    listen(worker)  # it was printed before the outcome was sent
                    yield {**outcome, "output": worker.printed.decode("utf-8", "replace")}
                    began, worker.printed, worker.printed_bytes = time.monotonic(), b"", 0
            if worker.printed_bytes > job["output_bytes"]:
                worker.why = "flood"
            elif resident_bytes(worker.pid) > job["memory_bytes"] + IMPORTS_BYTES:
                worker.why = "memory"
            elif time.monotonic() - began > job["wall_s"] + GRACE_S:
                worker.why = "slow"


def listen(worker: Worker) -> bool:
    """Take what the worker has printed; False once there is nothing more to come."""
    with suppress(BlockingIOError):
        while data := os.read(worker.output, 65536):
            worker.printed = (worker.printed + data)[:KEPT_BYTES]
            worker.printed_bytes += len(data)
            if len(data) < 65536 or worker.printed_bytes > FLOOD_TURN_BYTES:
                return True
        return False
    return True


def opened(worker: Worker) -> Iterator[dict[str, Any]]:
    """The whole lines heard so far whose seal is right and whose turn it is."""
    while b"\n" in worker.heard:
        line, _, worker.heard = worker.heard.partition(b"\n")
        seal, _, content = line.partition(b" ")
        if hmac.compare_digest(seal, sealed(worker.secret, len(worker.answered), content)):
            outcome = json.loads(content)
            worker.answered.append(outcome)
            yield outcome


def sealed(secret: bytes, turn: int, content: bytes) -> bytes:
    return hmac.new(secret, b"%d " % turn + content, hashlib.sha256).hexdigest().encode()


def died(worker: Worker, job: Job, case: Case, code: int) -> dict[str, Any]:
    """The outcome of the case at which a worker ended without one; `code` < 0 is a signal."""
    why = worker.why or ("slow" if code == -signal.SIGXCPU else "died")
    values = {
        "slow": {"seconds": job["cpu_s"] if code == -signal.SIGXCPU else job["wall_s"]},
        "memory": {"gb": job["memory_bytes"] / 1e9},
        "flood": {"mb": job["output_bytes"] / 1e6},
        "died": {"what": signal.Signals(-code).name if code < 0 else f"exit {code}"},
    }[why]
    return {
        "verdict": "wrong",
        "sentence": say(f"grade.{why}", call=case["exercise"], **values),
        "test": None,
        "tests": {},
        "seconds": 0.0,
        "output": worker.printed.decode("utf-8", "replace"),
    }


def reap(worker: Worker) -> int:
    """Leave nothing of a worker behind; its exit code, as it is if it had ended by itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)
    os.close(worker.results)
    os.close(worker.output)
    if worker.process is not None:
        return worker.process.wait()
    return os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])


def forked(grader: Any, job: Job, cases: list[Case], descriptor: int) -> Worker:
    """A worker that has the collected tests already."""
    results, results_in = os.pipe()
    output, output_in = os.pipe()
    secret = secrets.token_hex().encode()
    pid = os.fork()
    if pid == 0:
        os.close(descriptor)
        os.setsid()
        os.dup2(output_in, 1)
        os.dup2(output_in, 2)
        for unused in (results, output, output_in):
            os.close(unused)
        end(lambda: work(grader, job, cases, results_in, secret))
    os.close(results_in)
    os.close(output_in)
    os.set_blocking(output, False)
    return Worker(pid, results, output, secret)


def spawned(job: Job, cases: list[Case]) -> Worker:
    """A worker that starts anew and collects the tests itself."""
    results, results_in = os.pipe()
    secret = secrets.token_hex()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "x1.course.child", "worker", str(results_in)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(results_in,),
        start_new_session=True,
    )
    os.close(results_in)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(job | {"cases": cases, "secret": secret}).encode())
    process.stdin.close()
    output = os.dup(process.stdout.fileno())
    os.set_blocking(output, False)
    return Worker(process.pid, results, output, secret.encode(), process)


def end(task: Callable[[], None]) -> NoReturn:
    """Run the task and leave at once: no clean-up that graded code could have put in the way."""
    leave = os._exit
    try:
        task()
        sys.stdout.flush()
    except BaseException:
        leave(1)
    leave(0)


def work(grader: Any, job: Job, cases: list[Case], descriptor: int, secret: bytes) -> None:
    """Grade the cases one after the other; each outcome is sealed and sent at once."""
    from x1.course import fence

    write, dumps, mac = os.write, json.dumps, sealed
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    labs, work_folder = Path(job["lab"]).parent, Path(job["lab"]).parent.parent / "work"
    limit_memory(job["memory_bytes"])
    fence.install(labs, work_folder, lambda: job["may_use"][grader.attempt.exercise])
    for turn, case in enumerate(cases):
        limit_cpu(job["cpu_s"] + GRACE_S)
        outcome = grader.run(case)
        sys.stdout.flush()
        content = dumps(outcome).encode()
        write(descriptor, mac(secret, turn, content) + b" " + content + b"\n")
        if outcome["spoiled"]:
            return


def limit_memory(allowance_bytes: int) -> None:
    """Let this process take so much memory more than it has: Linux; elsewhere it is watched."""
    status = Path("/proc/self/status")
    if status.exists():
        has = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
        most = int(has.split()[1]) * 1024 + allowance_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(allowance_s: float) -> None:
    """The system's own limit behind the timer: a loop inside C never gets back to Python."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + allowance_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def resident_bytes(pid: int) -> int:
    """The memory a process has in use, 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        if sys.platform == "linux":
            return 0
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(done.stdout or 0) * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
