"""What graded code may not do: call what it is asked to write, read the answers, touch the grader.

Three fences, none of them meant against somebody who wants to cheat only themselves: imports of
the graded module go through `guarded_import`; an audit hook, which Python never removes, refuses
files, processes and signals while a frame of graded code is on the stack; and `Snapshot` notices
when a function that the grader relies on was replaced.
"""

import ast
import builtins
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from x1.text import UserError

MARK = "<x1 "  # how the file name of graded code begins: "<x1 12>"
COURSE = "x1.course"

# Refused unless the exercise lists it: the package, ready-made answers, ways around the fences.
ON_REQUEST = (
    "x1", "torch.utils.flop_counter", "subprocess", "multiprocessing", "importlib", "inspect",
    "gc", "ctypes", "pytest", "_pytest", "unittest", "builtins", "pty", "resource",
)  # fmt: skip
INNER = {
    "__subclasses__", "__globals__", "__builtins__", "__closure__", "__code__", "__wrapped__",
    "f_back", "f_globals", "f_locals", "f_builtins", "gi_frame", "tb_frame", "_getframe",
    "_current_frames", "__import__", "sys.modules",
}  # fmt: skip
SYS_KEPT_BACK = {
    "modules", "_getframe", "_getframemodulename", "_current_frames", "_current_exceptions",
    "meta_path", "path_hooks", "settrace", "setprofile", "addaudithook",
}  # fmt: skip
PROCESSES = {
    "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system",
    "subprocess.Popen", "pty.spawn",
}  # fmt: skip
SIGNALS = {"os.kill", "os.killpg", "signal.pthread_kill", "resource.setrlimit", "resource.prlimit"}
ANSWERS = {"lab.py", "lab.toml", "test_lab.py"}
MUTANTS = "mutants"
WRITES = {"os.remove", "os.rename", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}


class Refused(UserError):
    """Graded code tried what its exercise does not allow."""


def place_of(filename: str) -> str | None:
    """The cell that a frame's file name stands for, if it is graded code: "12" of "<x1 12>"."""
    return filename[len(MARK) : -1] if filename.startswith(MARK) else None


def permitted(name: str, may_use: Sequence[str]) -> bool:
    """Whether a module, or one name of a module, may be imported by graded code."""
    if not any(name == refused or name.startswith(f"{refused}.") for refused in ON_REQUEST):
        return True
    return any(name == allowed or name.startswith(f"{allowed}.") for allowed in may_use)


def refusal(name: str, exercise: str, may_use: Sequence[str]) -> Refused:
    allowed = ", ".join(may_use) or "–"
    return Refused("fence.module", name=name, exercise=exercise, allowed=allowed)


def guarded_import(exercise: str, may_use: Sequence[str]) -> Callable[..., Any]:
    """An `__import__` for graded code. Raises Refused for what the exercise may not use."""

    def fetch(
        name: str, globals: Any = None, locals: Any = None,
        fromlist: Sequence[str] | None = (), level: int = 0,
    ) -> Any:  # fmt: skip
        if name == COURSE:
            return quiet_course()
        if name == "sys":
            return sys_without_modules(exercise, may_use)
        wanted = [f"{name}.{part}" for part in fromlist or ()] or [name]
        for one in wanted:
            if level == 0 and not (permitted(name, may_use) or permitted(one, may_use)):
                raise refusal(one, exercise, may_use)
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    return fetch


def quiet_course() -> SimpleNamespace:
    """What `from x1.course import check, ...` gives graded code: names that do nothing."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def first(value: Any, *_: Any, **__: Any) -> Any:
        return value

    return SimpleNamespace(
        check=nothing, predict=nothing, predicted=nothing, label=first, setting=first
    )


def sys_without_modules(exercise: str, may_use: Sequence[str]) -> ModuleType:
    """`sys` as graded code imports it: without the way to every module that is loaded."""
    module = ModuleType("sys")
    for name in set(dir(sys)) - SYS_KEPT_BACK:
        setattr(module, name, getattr(sys, name))

    def refuse(name: str) -> Any:
        if name in SYS_KEPT_BACK:
            raise refusal(f"sys.{name}", exercise, may_use)
        raise AttributeError(name)

    vars(module)["__getattr__"] = refuse
    return module


class Withheld:
    """Stands for an import of the notebook that the exercise may not use: raises when used."""

    def __init__(self, fault: Refused) -> None:
        object.__setattr__(self, "_fault", fault)

    def __getattribute__(self, name: str) -> Any:
        raise object.__getattribute__(self, "_fault")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise object.__getattribute__(self, "_fault")


def check_text(tree: ast.Module, place: str, exercise: str, may_use: Sequence[str]) -> None:
    """Raises Refused, with cell and line, for code that reaches into the interpreter itself."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=said):
                dotted = ast.unparse(node)
                if dotted in ON_REQUEST and not permitted(dotted, may_use):
                    raise refusal(dotted, exercise, may_use)
                said = dotted if dotted == "sys.modules" or said == "sys" else said
            case ast.Name(id=said) | ast.Constant(value=str(said)):
                pass
            case _:
                continue
        if said in INNER or said.endswith(".sys"):
            raise Refused("fence.inner", name=said, place=place, line=node.lineno)


def install(labs: Path, work: Path, may_use: Callable[[], Sequence[str]]) -> None:
    """Refuse, from here on and inside graded code only, the answers' files, processes, signals.

    `may_use` gives what the exercise of the moment may use: "subprocess" lifts its refusal.
    """
    kept = tuple(os.path.realpath(path) + os.sep for path in (labs, work))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, int) or not inside_graded_code():
                return
            full = os.path.realpath(os.fsdecode(path))
            parts = Path(full).parts
            writes = bool(flags and flags & (os.O_WRONLY | os.O_RDWR))
            if full.startswith(kept[0]) and (parts[-1] in ANSWERS or MUTANTS in parts):
                raise Refused("fence.file", path=path)
            if writes and full.startswith(kept):
                raise Refused("fence.file", path=path)
        elif event in WRITES:
            if inside_graded_code() and any(
                os.path.realpath(os.fsdecode(path)).startswith(kept)
                for path in args
                if isinstance(path, str | bytes | os.PathLike)
            ):
                raise Refused("fence.file", path=args[0])
        elif event in PROCESSES:
            if inside_graded_code() and "subprocess" not in may_use():
                raise Refused("fence.process")
        elif event in SIGNALS and inside_graded_code():
            raise Refused("fence.process")

    sys.addaudithook(hook)


def inside_graded_code() -> bool:
    """Whether a function of the graded cell is running, on this thread."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(MARK):
            return True
        frame = frame.f_back
    return False


class Snapshot:
    """The functions the grader relies on, as they were before graded code was loaded."""

    WATCHED = (
        "builtins", "math", "random", "statistics", "time", "json", "os", "hmac",
        "numpy", "numpy.testing", "numpy.linalg", "numpy.random",
        "torch", "torch.nn", "torch.nn.functional", "torch.linalg", "torch.testing",
        "torch.utils.flop_counter", "pytest", "_pytest.runner", "_pytest.python_api",
    )  # fmt: skip

    def __init__(self, *more: ModuleType) -> None:
        watched = [sys.modules[name] for name in self.WATCHED if name in sys.modules]
        watched += [m for name, m in sys.modules.items() if name.partition(".")[0] == "x1"]
        holders: list[Any] = [*watched, *more]
        if "torch" in sys.modules:
            holders.append(sys.modules["torch"].Tensor)
        self.kept = [
            (holder, {k: v for k, v in vars(holder).items() if callable(v)}) for holder in holders
        ]

    def put_back(self) -> str | None:
        """Undo what was replaced; the name of the first such function, None if all are in place."""
        found = None
        for holder, kept in self.kept:
            now = vars(holder)
            for name, value in kept.items():
                if now.get(name) is not value and not torchs_own(now.get(name), kept):
                    found = found or f"{holder.__name__}.{name}"
                    setattr(holder, name, value)
        return found


def torchs_own(value: Any, kept: dict[str, Any]) -> bool:
    """Whether torch itself put this function in place: its compiler wraps some when imported,
    which the first optimizer does.
    """
    code = getattr(value, "__code__", None)
    return (
        str(getattr(value, "__module__", "")).startswith("torch")
        and code is not None
        and not code.co_filename.startswith(MARK)
        and not any(value is one for one in kept.values())
    )
