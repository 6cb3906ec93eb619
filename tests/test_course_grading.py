"""A learner's answer, whatever it does, gets a verdict in one sentence and harms nothing."""

import json
import os
import re
import string
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from x1.course import child, fence, grade, grading, load, source
from x1.course.grade import Limits
from x1.text import UserError, catalogue, say

LIMITS = Limits(cpu_s=0.5, wall_s=60.0, memory_bytes=1_000_000_000, output_bytes=200_000)
HEAD = "def mfu(a, b):\n    "
RIGHT = f"{HEAD}return a / b"

# name: (the cell below its first line, verdict, key of the sentence, what it says)
ANSWERS = {
    "right": (RIGHT, "passed", None, {}),
    "right, otherwise": ("mfu = lambda a, b: a * b**-1 if b else 1 / b", "passed", None, {}),
    "a call to look": (f"{RIGHT}\n\nmfu(1, 0)\ncheck('mfu')", "passed", None, {}),
    "a magic": (f"%time mfu(1, 2)\n{RIGHT}\n!ls", "passed", None, {}),
    "a thread left running": (
        "import threading, time\n"
        f"{HEAD}threading.Thread(target=time.sleep, args=(1e6,)).start()\n    return a / b",
        "passed",
        None,
        {},
    ),
    "wrong": (f"{HEAD}return a * b", "wrong", None, {}),
    "nothing returned": (f"{HEAD}a / b", "wrong", None, {}),
    "untouched": (
        "def mfu(flops_per_s: float, peak_flops_per_s: float) -> float:\n"
        "    # my own remark\n    raise NotImplementedError",
        "not_started",
        "grade.not_started",
        {"exercise": "mfu"},
    ),
    "a little touched": (
        f"{HEAD}x = a\n    raise NotImplementedError",
        "not_started",
        "grade.not_started",
        {"exercise": "mfu"},
    ),
    "raises": (f"{HEAD}return a / 0", "wrong", "grade.raised", {"place": "6", "line": 3}),
    "endless": (f"{HEAD}while True: pass", "wrong", "grade.slow_at", {"seconds": 0.5, "line": 3}),
    "endless, deaf": (
        f"{HEAD}while True:\n        try:\n            while True: pass\n        except: pass",
        "wrong",
        "grade.slow_at",
        {"place": "6"},
    ),
    "endless in C": (f"{HEAD}return sum(range(10**18))", "wrong", "grade.slow", {"seconds": 0.5}),
    "endless when loaded": ("while True: pass\n" + RIGHT, "wrong", "grade.slow_at", {"line": 2}),
    "sys.exit": (
        f"import sys\n{HEAD}sys.exit(0)",
        "wrong",
        "grade.ended",
        {"what": "SystemExit"},
    ),
    "exit when loaded": (f"raise SystemExit\n{RIGHT}", "wrong", "grade.ended", {}),
    "os._exit": (f"import os\n{HEAD}os._exit(0)", "wrong", "grade.died", {"what": "exit 0"}),
    "no way to answer left": (
        f"import os\n{HEAD}os.closerange(0, 200)\n    return a / b",
        "wrong",
        "grade.died",
        {},
    ),
    "interrupt": (f"{HEAD}raise KeyboardInterrupt", "wrong", "grade.ended", {}),
    "base exception": (f"{HEAD}raise BaseException", "wrong", "grade.ended", {}),
    "huge list": (f"{HEAD}return len([0] * 10**10)", "wrong", "grade.memory", {"gb": 1.0}),
    "huge array": (
        f"import numpy as np\n{HEAD}return np.ones(10**9).sum()",
        "wrong",
        "grade.memory",
        {"gb": 1.0},
    ),
    "flood": (f"{HEAD}while True: print('x' * 999)", "wrong", "grade.flood", {"mb": 0.2}),
    "missing module": (f"import nosuch\n{RIGHT}", "wrong", "grade.no_module", {"name": "nosuch"}),
    "missing name": (f"{HEAD}return pd.div(a, b)", "wrong", "grade.no_name", {"name": "pd"}),
    "not a function": ("mfu = 3", "wrong", "grade.not_a_function", {"place": "6"}),
    "fork bomb": (f"import os\n{HEAD}while True: os.fork()", "wrong", "fence.process", {}),
    "shell": (f"import os\n{HEAD}return os.system('true')", "wrong", "fence.process", {}),
    "kills the grader": (
        f"import os\n{HEAD}os.kill(os.getppid(), 9)",
        "wrong",
        "fence.process",
        {},
    ),
    "reads the solution": (f"{HEAD}return open('LAB/lab.py').read()", "wrong", "fence.file", {}),
    "reads the grader": (
        f"import os\n{HEAD}return os.open('LAB/test_lab.py', 0)",
        "wrong",
        "fence.file",
        {},
    ),
    "reads a right answer": (
        f"from pathlib import Path\n{HEAD}return Path('LAB/mutants/mfu/right-a.py').read_text()",
        "wrong",
        "fence.file",
        {},
    ),
    "removes the lab": (
        f"import shutil\n{HEAD}return shutil.rmtree('LAB')",
        "wrong",
        "fence.file",
        {},
    ),
    "forges a pass": (
        f"import os\n{HEAD}\n    for fd in range(3, 40):\n        try:\n"
        '            os.write(fd, b\'0 {"verdict": "passed", "spoiled": false}\\n\')\n'
        "        except OSError: pass\n    return 7",
        "wrong",
        None,
        {},
    ),
    "replaces the grader": (
        f"{HEAD}\n    try: a / 0\n    except ZeroDivisionError as e:\n"
        "        f = getattr(e.__traceback__, 'tb_' + 'frame')\n"
        "    while f:\n        g = getattr(f, 'f_' + 'globals')\n"
        "        if 'expect' in g: g['expect'] = lambda *a, **k: None\n"
        "        f = getattr(f, 'f_' + 'back')\n    return 7",
        "wrong",
        "grade.replaced",
        {"name": "x1.course.grading.expect"},
    ),
    "replaces an oracle": (
        f"import math\nmath.isclose = lambda *a, **k: True\n{RIGHT}",
        "wrong",
        "grade.replaced",
        {"name": "math.isclose"},
    ),
    "equal to everything": (
        "class E(float):\n    def __eq__(self, other): return True\n"
        f"    __hash__ = float.__hash__\n{HEAD}return E(1)",
        "wrong",
        "grade.own_comparison",
        {"type": "E"},
    ),
    "inside the interpreter": (
        f"{HEAD}return mfu.__globals__",
        "wrong",
        "fence.inner",
        {"name": "__globals__", "line": 3},
    ),
    "the module table": (
        f"import sys\n{HEAD}return sys.modules",
        "wrong",
        "fence.inner",
        {"name": "sys.modules"},
    ),
    "the module table under another name": (
        f"import sys as _s\n{HEAD}return _s.modules",
        "wrong",
        "fence.module",
        {"name": "sys.modules"},
    ),
    "the module table alone": (
        f"from sys import modules\n{RIGHT}",
        "wrong",
        "fence.module",
        {"name": "sys.modules"},
    ),
    "the module table through another": (
        f"import os\n{HEAD}return os.sys.modules",
        "wrong",
        "fence.inner",
        {"name": "os.sys"},
    ),
    "what sys is good for": (
        f"import sys\n{HEAD}return a / max(b, 0 * sys.float_info.min)",
        "passed",
        None,
        {},
    ),
    "delegates": (
        f"from x1 import flops\n{HEAD}return flops.mfu(a, b)",
        "wrong",
        "fence.module",
        {"name": "x1.flops", "allowed": "–"},
    ),
    "delegates to the notebook's import": (
        f"{HEAD}return flops.mfu(a, b)",
        "wrong",
        "fence.module",
        {"name": "x1.flops"},
    ),
    "delegates by name": (
        f"{HEAD}\n    import importlib\n    return importlib.import_module('x1.flops')",
        "wrong",
        "fence.module",
        {"name": "importlib"},
    ),
    "reaches for the grader": (
        f"{HEAD}\n    import x1.course.grading\n    return 1",
        "wrong",
        "fence.module",
        {"name": "x1.course.grading"},
    ),
    "right after all that": (RIGHT, "passed", None, {}),
}


@pytest.fixture(scope="module")
def lab(shared_toy):
    return source.read_lab(shared_toy)


def graded(lab, answers, exercise="mfu", limits=LIMITS, **more):
    """The outcomes of several answers, in one grading process."""
    cells = [f"# exercise: {exercise}\n" + text.replace("LAB", str(lab.folder)) for text in answers]
    cases = [grade.case(lab, exercise, cell, seed=3) for cell in cells]
    return list(grade.run_cases(lab, cases, "en", limits, **more))


@pytest.fixture(scope="module")
def outcomes(lab):
    before = sorted(lab.folder.rglob("*"))
    given = graded(lab, [text for text, *_ in ANSWERS.values()])
    assert sorted(lab.folder.rglob("*")) == before
    return dict(zip(ANSWERS, given, strict=True))


def says(sentence, key, values):
    """Whether a sentence is that of `key`, with these values where they are known."""
    pattern = ""
    for text, name, spec, _ in string.Formatter().parse(catalogue("en")[key]):
        known = format(values[name], spec or "") if name in values else None
        pattern += re.escape(text) + (".*" if known is None else re.escape(known)) * bool(name)
    return re.fullmatch(pattern, sentence) is not None


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_gets_its_verdict(outcomes, name):
    _, verdict, key, values = ANSWERS[name]
    outcome = outcomes[name]
    assert outcome.verdict == verdict, outcome.sentence
    assert "\n" not in outcome.sentence and "Traceback" not in outcome.sentence
    if key:
        assert says(outcome.sentence, key, values), outcome.sentence


def test_a_wrong_answer_is_told_which_property_on_which_input_and_not_the_answer(outcomes):
    wrong = outcomes["wrong"]
    assert wrong.test == "test_half" and wrong.tests["test_half"] == "failed"
    assert wrong.sentence.startswith("At ") and "e+14 FLOP/s" in wrong.sentence
    assert "0.5" not in wrong.sentence
    assert outcomes["raises"].sentence.startswith("mfu(")


def test_what_was_printed_is_kept_and_cut(outcomes):
    assert 0 < len(outcomes["flood"].output) <= child.KEPT_BYTES


def test_a_process_of_its_own_gives_the_same(lab):
    names = ["right", "os._exit", "wrong"]
    answers = [ANSWERS[name][0] for name in names]
    given = graded(lab, answers, forks=False)
    assert [one.verdict for one in given] == ["passed", "wrong", "wrong"]
    assert given[1].sentence == say("grade.died", "en", call="mfu", what="exit 0")


def test_an_exercise_may_use_what_it_lists(lab):
    answers = {
        "a module": "from x1 import flops\ndef mean_square(v):\n    flops.GIGA; return {}",
        "a function": "from x1.money import usd\ndef mean_square(v):\n    usd(1.0); return {}",
        "the notebook's": "def mean_square(v):\n    flops.GIGA\n    return {}",
        "a process": (
            "import subprocess\n"
            "def mean_square(v):\n    subprocess.run(['true'], check=True); return {}"
        ),
        "all of a module": "from x1 import money\ndef mean_square(v):\n    return {}",
        "another function": "from x1.money import rate\ndef mean_square(v):\n    return {}",
    }
    right = "float(sum(x * x for x in v) / len(v))"
    outcomes = graded(lab, [text.format(right) for text in answers.values()], "mean_square")
    verdicts = dict(zip(answers, [one.verdict for one in outcomes], strict=True))
    refused = ("all of a module", "another function")
    assert verdicts == {name: "wrong" if name in refused else "passed" for name in answers}, [
        one.sentence for one in outcomes
    ]


def test_nothing_that_graded_code_started_is_left(lab):
    answer = (
        "import subprocess\ndef mean_square(v):\n"
        "    print(subprocess.Popen(['sleep', '600']).pid)\n    return 9.0"
    )
    outcome = graded(lab, [answer], "mean_square")[0]
    pids = [int(line) for line in outcome.output.split()]
    assert pids
    for pid in pids:
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists() or "Z" in stat(pid):
                break
            time.sleep(0.05)
        else:
            os.kill(pid, 9)
            pytest.fail(f"{pid} is still running")


def test_a_grading_whose_command_was_killed_ends(toy):
    cell = "# exercise: mfu\ndef mfu(a, b):\n    while True: pass"
    code = (
        "from pathlib import Path; from x1.course import grade, source\n"
        f"lab = source.read_lab(Path({str(toy)!r}))\n"
        f"case = grade.case(lab, 'mfu', {cell!r}, seed=1)\n"
        "list(grade.run_cases(lab, [case], 'en', grade.Limits(cpu_s=300, wall_s=300)))"
    )
    command = subprocess.Popen([sys.executable, "-c", code])
    while not (found := processes(command.pid)):
        assert command.poll() is None
        time.sleep(0.1)
    command.kill()
    command.wait()
    for _ in range(600):
        if all(stat(pid) == "Z" for pid in found):
            break
        time.sleep(0.1)
    left = [pid for pid in found if stat(pid) != "Z"]
    for pid in left:
        os.kill(pid, 9)
    assert left == []


def processes(parent):
    """The worker that grades for this process, and the process between them; [] until it runs."""
    found = [one.pid for one in psutil.Process(parent).children(recursive=True)]
    return found if len(found) > 1 else []


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2]
    except OSError:
        return "Z"


def test_torch_is_imported_only_if_the_exercise_imports_it(toy):
    with (toy / "test_lab.py").open("a") as tests:
        tests.write(
            "\n\n@exercise('mfu')\ndef test_light(mfu):\n    import sys\n\n"
            "    assert 'torch' not in sys.modules\n"
        )
    answers = [RIGHT, f"import torch\ntorch.nn\n{RIGHT}"]
    light, heavy = graded(source.read_lab(toy), answers, limits=Limits(cpu_s=30.0))
    assert light.verdict == "passed"
    assert heavy.tests["test_light"] == "failed"


def test_a_check_that_cannot_use_the_value_says_which_value(lab):
    answer = "def mean_square(v):\n    return 'much'"
    outcome = graded(lab, [answer], "mean_square")[0]
    assert outcome.verdict == "wrong" and "'much'" in outcome.sentence


def test_a_plain_assert_names_the_test_and_the_call_only(lab):
    answer = "def mean_square(v):\n    return 0.0"
    outcome = graded(lab, [answer], "mean_square")[0]
    assert outcome.sentence == say("grade.plain", "en", call="mean_square([3])", test="test_one")


def test_the_first_failing_test_ends_a_case_if_asked(lab):
    answer = "def mean_square(v):\n    return v[0]"
    whole, short = (
        graded(lab, [answer], "mean_square", until_failure=one)[0] for one in (False, True)
    )
    assert whole.tests == {"test_sign": "failed", "test_one": "failed"}
    assert short.tests == {"test_sign": "failed"} and short.test == "test_sign"


# ---- The seed


def test_a_seed_fixes_what_is_drawn(lab):
    cell = "# exercise: mfu\ndef mfu(a, b):\n    return 7"
    cases = [grade.case(lab, "mfu", cell, seed=seed) for seed in (1, 1, 2)]
    one, again, other = (one.sentence for one in grade.run_cases(lab, cases, "en", LIMITS))
    assert one == again != other


def test_the_seed_is_drawn_or_given(monkeypatch):
    monkeypatch.delenv(grade.SEED, raising=False)
    assert len({grade.draw_seed() for _ in range(5)}) > 1
    monkeypatch.setenv(grade.SEED, "12")
    assert grade.draw_seed() == 12
    monkeypatch.setenv(grade.SEED, "-1.5")
    with pytest.raises(UserError, match="X1_GRADE_SEED"):
        grade.draw_seed()


# ---- The grader's own faults


def test_a_lab_whose_tests_do_not_load_is_said_to_be_at_fault(toy):
    (toy / "test_lab.py").write_text("import nosuch\n")
    lab = source.read_lab(toy)
    with pytest.raises(UserError) as refused:
        graded(lab, [RIGHT])
    assert refused.value.key == "grade.grader_broken" and "nosuch" in str(refused.value)


@pytest.mark.parametrize(
    ("test", "key"),
    [
        ("def test_x(mfu):\n    raise OSError('disk')", "grade.grader"),
        ("def test_x(mfu):\n    expect(False, 'nosuch')", "grade.message"),
        ("def test_x(mfu):\n    expect(False, 'half')", "grade.message"),
        ("def test_x(mean_square):\n    pass", "grade.grader"),
        (None, "grade.no_tests"),
    ],
)
def test_a_fault_of_the_lab_is_not_the_learners(toy, test, key):
    text = "from x1.course.grading import exercise, expect\n\n\n"
    (toy / "test_lab.py").write_text(f"{text}@exercise('mfu')\n{test}\n" if test else text)
    outcome = graded(source.read_lab(toy), [RIGHT])[0]
    assert outcome.verdict == "broken"
    assert says(outcome.sentence, key, {})


def test_without_pytest_the_command_that_installs_it_is_named(lab, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        graded(lab, [RIGHT])
    assert refused.value.key == "grade.no_pytest"


# ---- Seals, limits


def worker():
    return child.Worker(pid=0, results=0, output=0, secret=b"secret")


def test_only_a_sealed_line_in_its_turn_is_believed():
    content = json.dumps({"verdict": "passed"}).encode()
    forged = worker()
    forged.heard = b"0" * 64 + b" " + content + b"\n" + content + b"\n\n"
    assert list(child.opened(forged)) == []
    sealed = child.sealed(b"secret", 0, content) + b" " + content + b"\n"
    true = worker()
    true.heard = sealed[:40]
    assert list(child.opened(true)) == []
    true.heard += sealed[40:] + sealed  # the second time it is a line of turn 1
    assert list(child.opened(true)) == [{"verdict": "passed"}]


def test_the_memory_of_a_process_is_read():
    assert child.resident_bytes(os.getpid()) > 10_000_000
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert child.resident_bytes(done.pid) == 0


def test_the_fence_is_closed_to_graded_code_alone():
    assert not fence.inside_graded_code()
    inside = {"fence": fence}
    exec(compile("found = fence.inside_graded_code()", "<x1 3>", "exec"), inside)
    assert inside["found"]


@pytest.mark.parametrize(
    ("name", "may_use", "allowed"),
    [
        ("math", [], True),
        ("torch.nn.functional", [], True),
        ("x1.flops", [], False),
        ("x1.flops", ["x1.flops"], True),
        ("x1.flops.token_flops", ["x1.flops"], True),
        ("x1.flops", ["x1.flops.token_flops"], False),
        ("x1.flopsy", ["x1.flops"], False),
        ("x1x", [], True),
        ("torch.utils.flop_counter", [], False),
        ("torch.utils.flop_counter", ["torch.utils.flop_counter"], True),
    ],
)
def test_what_may_be_imported(name, may_use, allowed):
    assert fence.permitted(name, may_use) == allowed


# ---- How values are shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.333333"),
        (12, "12"),
        (True, "True"),
        ("a", "'a'"),
        ([1.0, 2], "[1, 2]"),
        ({"a": 0.5}, "{'a': 0.5}"),
        (len, "len"),
        ("x" * 999, "'" + "x" * 199 + "…"),
    ],
)
def test_a_value_is_shown_so_that_it_can_be_read(value, text):
    assert grading.shown(value) == text


def test_an_array_is_shown_by_its_shape():
    import numpy as np

    assert grading.shown(np.zeros((2, 3))) == "ndarray(2, 3)"
    assert grading.shown_call("f", (np.zeros(4),), {"n": 2}) == "f(ndarray(4,), n=2)"


# ---- From a notebook to what is graded


def cells(*texts):
    return [load.CodeCell(str(number), text) for number, text in enumerate(texts, 1)]


FUNCTION = "# exercise: mfu\ndef mfu(a, b):\n    return np.divide(a, b)"


def test_only_the_imports_that_the_cell_uses_are_taken():
    found = load.graded(cells("import torch, numpy as np\nfrom x1 import flops", FUNCTION), "mfu")
    assert [(part.place, part.line, part.text) for part in found.imports] == [
        ("1", 1, "import numpy as np")
    ]
    assert found.place == "2" and found.cell.text == FUNCTION


def test_an_import_anywhere_counts_and_a_star_always():
    later = load.graded(cells(FUNCTION, "x = 1\nimport numpy as np"), "mfu")
    assert [(part.place, part.line) for part in later.imports] == [("2", 2)]
    star = load.graded(cells("from numpy import *\nnp = 1", FUNCTION), "mfu")
    assert [part.text for part in star.imports] == ["from numpy import *"]


@pytest.mark.parametrize(
    ("texts", "key", "values"),
    [
        (["x = 1"], "load.no_cell", {"exercise": "mfu"}),
        ([FUNCTION, FUNCTION], "load.two_cells", {"exercise": "mfu", "places": "1, 2"}),
        (["# exercise: mfu\ndef mfu(:"], "load.syntax", {"place": "1", "line": 2}),
        (["# exercise: mfu\nx = 1"], "load.undefined", {"exercise": "mfu", "place": "1"}),
        (
            ["# exercise: mfu", "def mfu(a, b):\n    return 1"],
            "load.moved",
            {"place": "1", "other": "2"},
        ),
        (
            ["np = 3", FUNCTION],
            "load.elsewhere",
            {"name": "np", "exercise": "mfu", "place": "2", "other": "1"},
        ),
        (
            [
                "def helper(): pass",
                "# exercise: mfu\ndef mfu(a):\n    return [helper() for _ in a]",
            ],
            "load.elsewhere",
            {"name": "helper", "other": "1"},
        ),
    ],
)
def test_what_cannot_be_graded_is_said_with_cell_and_line(texts, key, values):
    with pytest.raises(UserError) as refused:
        load.graded(cells(*texts), "mfu")
    assert refused.value.key == key and values.items() <= refused.value.values.items()


def test_a_name_of_the_cell_hides_the_same_name_elsewhere():
    text = (
        "# exercise: mfu\nk = 2\ndef mfu(a, b):\n    import numpy as np\n    return np.divide(a, k)"
    )
    found = load.graded(cells("k = 1\nnp = 3", text), "mfu")
    assert found.imports == ()


def test_broken_cells_elsewhere_are_no_matter():
    assert load.graded(cells("%matplotlib inline", "def (", "import numpy as np", FUNCTION), "mfu")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# exercise: mfu\ndef mfu(a, b):\n    # why\n    return np.divide( a,b )\n", True),
        (f"{FUNCTION}\nmfu(1, 2)", True),
        (f"%time 3\n{FUNCTION}", False),
        (FUNCTION.replace("(a, b):", "(b, a):"), False),
    ],
)
def test_what_a_cell_says_is_told_from_how_it_looks(text, same):
    assert (load.digest(text) == load.digest(FUNCTION)) == same


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("{", "load.not_json"),
        ("[]", "load.not_notebook"),
        ('{"worksheets": []}', "load.not_notebook"),
        (None, "folder.missing"),
    ],
)
def test_what_is_no_notebook_is_refused(tmp_path, content, key):
    path = tmp_path / "lab.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as refused:
        load.read_notebook(path)
    assert refused.value.key == key
