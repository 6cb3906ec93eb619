"""Answers that a grader has to refuse: the reference with one thing changed, and the shortcuts.

Mutations are those of the literature on mutation testing (arithmetic, relational and logical
operators, constants, conditions, statements), each made once in the syntax tree. The shortcuts
are what a learner who does not know might hand in: a function of the package that does the work,
the grader's own oracle, the answer to the first case, a parameter left unread.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
}
RELATIONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
TWINS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor",
    "mean": "sum", "sum": "mean", "log": "log2", "log2": "log",
}  # fmt: skip
GONE = "–"
BUILTIN = {"min", "max", "any", "all"}
DROPPED = {"abs", "round", "sorted", "sqrt", "float", "int"}


@dataclass(frozen=True)
class Mutation:
    """A wrong answer made by a rule. `was` and `now` name it in mutants/equivalent.toml."""

    was: str
    now: str
    text: str


def mutations(cell: str) -> list[Mutation]:
    """The reference's cell with one thing changed, in the order of its lines, each text once."""
    tree = ast.parse(cell)
    plain = ast.unparse(tree)
    made: dict[str, Mutation] = {}
    for count, (place, _) in enumerate(list(changes(tree))):
        twin = copy.deepcopy(tree)
        nodes = list(changes(twin))
        was = header(place)
        nodes[count][1]()
        now = header(nodes[count][0])
        ast.fix_missing_locations(twin)
        try:
            text = ast.unparse(twin)
            ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        if text != plain and text not in made:
            made[text] = Mutation(was, now if now != was else GONE, f"{first_line(cell)}\n{text}")
    return list(made.values())


def first_line(cell: str) -> str:
    """The line `# exercise: ID`, which a syntax tree forgets."""
    return cell.split("\n", 1)[0]


def header(statement: ast.stmt) -> str:
    """A statement on one line, a compound one without its body."""
    said = ast.unparse(statement)
    compound = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef)
    return said.split("\n", 1)[0] if isinstance(statement, compound) else " ".join(said.split())


Change = tuple[ast.stmt, Callable[[], None]]  # the statement it changes, and what changes it


def changes(tree: ast.Module) -> Iterator[Change]:
    """Every change there is to make, lazily: one is made by calling it, on a tree of its own."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            yield from defaults(function)
            yield from body_changes(function.body, first=True)
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            yield from expression_changes(statement)


def defaults(function: ast.FunctionDef) -> Iterator[Change]:
    for node in [*function.args.defaults, *function.args.kw_defaults]:
        if isinstance(node, ast.Constant):
            yield from ((function, change) for change in constant_changes(node))


def body_changes(body: list[ast.stmt], first: bool = False) -> Iterator[Change]:
    """The changes in a block; inner functions are met on their own."""
    for place, statement in enumerate(body):
        if isinstance(statement, ast.FunctionDef | ast.Import | ast.ImportFrom | ast.Raise):
            continue
        is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if is_text:
            continue  # a docstring
        if isinstance(statement, ast.AugAssign | ast.Expr):
            yield taken_away(body, place, statement)
        yield from expression_changes(statement)
        for field in ("body", "orelse", "finalbody"):
            inner = getattr(statement, field, None)
            if isinstance(inner, list):
                yield from body_changes(inner)


def taken_away(body: list[ast.stmt], place: int, statement: ast.stmt) -> Change:
    def change() -> None:
        body[place] = ast.Pass()

    return statement, change


def expression_changes(statement: ast.stmt) -> Iterator[Change]:
    """The changes in the expressions of one statement, not in those of the blocks it holds."""
    if isinstance(statement, ast.AugAssign):
        for other in ARITHMETIC.get(type(statement.op), ()):
            yield statement, setter(statement, "op", other())
    if isinstance(statement, ast.If | ast.While):
        for value in (True, False) if isinstance(statement, ast.If) else (False,):
            yield statement, setter(statement, "test", ast.Constant(value))
    if isinstance(statement, ast.Break | ast.Continue):
        return
    for parent, field, index, node in expressions(statement):
        for made in replacements(node):
            yield statement, replacer(parent, field, index, made)
        if isinstance(node, ast.Constant) and not in_annotation(statement, field):
            for change in constant_changes(node):
                yield statement, change
        if isinstance(node, ast.BinOp):
            for other in ARITHMETIC.get(type(node.op), ()):
                yield statement, setter(node, "op", other())
        if isinstance(node, ast.Compare):
            for place, relation in enumerate(node.ops):
                for instead in RELATIONS.get(type(relation), ()):
                    yield statement, replacer(node, "ops", place, instead())
        if isinstance(node, ast.BoolOp):
            turned = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield statement, setter(node, "op", turned)


def in_annotation(statement: ast.stmt, field: str) -> bool:
    return isinstance(statement, ast.AnnAssign) and field == "annotation"


def expressions(statement: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.expr]]:
    """(parent, field, index, node) of every expression that belongs to a statement itself."""
    for field, value in ast.iter_fields(statement):
        if field == "annotation":
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, node in items:
            if isinstance(node, ast.JoinedStr):
                continue
            if isinstance(node, ast.expr):
                yield statement, field, index, node
                yield from expressions(node)
            elif isinstance(node, ast.keyword | ast.comprehension | ast.withitem | ast.Slice):
                yield from expressions(node)


def replacements(node: ast.expr) -> Iterator[ast.expr]:
    """What may stand instead of a whole expression."""
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Call(func=ast.Name(id=name), args=args) if name in BUILTIN:
            yield ast.Call(ast.Name(TWINS[name]), args, node.keywords)
        case ast.Call(func=ast.Attribute(value=module, attr=name), args=args) if name in TWINS:
            yield ast.Call(ast.Attribute(module, TWINS[name]), args, node.keywords)
        case ast.Call(func=ast.Name(id=name), args=[argument, *_]) if name in DROPPED:
            yield argument
        case ast.Call(func=ast.Attribute(attr=name), args=[argument, *_]) if name in DROPPED:
            yield argument


def constant_changes(node: ast.Constant) -> Iterator[Callable[[], None]]:
    """Another value for a constant: 1 more, and for a number above 1 also its double."""
    value = node.value
    if isinstance(value, bool):
        yield setter(node, "value", not value)
    elif isinstance(value, int):
        yield setter(node, "value", value + 1)
        if value > 1:
            yield setter(node, "value", value - 1)
    elif isinstance(value, float):
        yield setter(node, "value", 2 * value if value else 1.0)
    elif isinstance(value, str):
        yield setter(node, "value", value + "x")


def setter(node: ast.AST, field: str, value: object) -> Callable[[], None]:
    return lambda: setattr(node, field, value)


def replacer(parent: ast.AST, field: str, index: int | None, made: ast.AST) -> Callable[[], None]:
    def change() -> None:
        if index is None:
            setattr(parent, field, made)
        else:
            getattr(parent, field)[index] = made

    return change


def parameters(cell: str, exercise: str) -> list[str]:
    """The names of the parameters of the exercise's function, in order."""
    for node in ast.parse(cell).body:
        if isinstance(node, ast.FunctionDef) and node.name == exercise:
            given = node.args
            return [part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return []


def renamed(cell: str, exercise: str) -> str:
    """The reference under the name `_reference`, for a shortcut that calls it now and then."""
    tree = ast.parse(cell)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == exercise:
            node.name = "_reference"
        elif isinstance(node, ast.Name) and node.id == exercise:
            node.id = "_reference"
    return ast.unparse(tree)


def shortcuts(cell: str, exercise: str) -> Iterator[Mutation]:
    """Wrong answers made from the reference: trivial, of the first case only, deaf to a parameter.

    What is right for the first case only returns the constant of a visible example; what is deaf
    to a parameter is right only at the value it met first, which is the default one.
    """
    top = first_line(cell)
    for value in ("None", "0", "1", "1.0", "True", "False", "''", "(args or (None,))[0]"):
        yield Mutation(
            "–",
            f"returns {value}",
            f"{top}\ndef {exercise}(*args, **kwargs):\n    return {value}\n",
        )
    yield Mutation(
        "–",
        "returns what the first case returns",
        wrapped(cell, exercise, "return _kept.setdefault('', {call})"),
    )
    for name in parameters(cell, exercise):
        yield Mutation(
            "–",
            f"ignores {name} after the first case",
            wrapped(
                cell, exercise, f"{name} = _kept.setdefault({name!r}, {name})", "return {call}"
            ),
        )


def wrapped(cell: str, exercise: str, *body: str) -> str:
    """A cell whose function has the reference's signature and `body`, where {call} calls the
    reference with what it was given, and `_kept` is a dict that lasts.
    """
    tree = ast.parse(renamed(cell, exercise))
    (reference,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "_reference"
    )
    given = copy.deepcopy(reference.args)
    for part in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
        if part is not None:
            part.annotation = None
    passed = [part.arg for part in (*given.posonlyargs, *given.args)]
    passed += [f"*{given.vararg.arg}"] if given.vararg else []
    passed += [f"{part.arg}={part.arg}" for part in given.kwonlyargs]
    passed += [f"**{given.kwarg.arg}"] if given.kwarg else []
    lines = [line.format(call=f"_reference({', '.join(passed)})") for line in body]
    return "\n".join(
        [
            first_line(cell),
            ast.unparse(tree),
            "_kept = {}",
            f"def {exercise}({ast.unparse(given)}):",
            *(f"    {line}" for line in lines),
        ]
    )


def control(cell: str, exercise: str) -> str:
    """The wrapper of the shortcuts with nothing wrong in it: it has to pass."""
    return wrapped(cell, exercise, "return {call}")


def delegates(top: str, exercise: str, functions: list[str]) -> Iterator[Mutation]:
    """Answers that hand the whole work to a function of the package ("x1.flops.mfu")."""
    for name in functions:
        module, _, function = name.rpartition(".")
        yield Mutation(
            "–",
            f"calls {name}",
            f"{top}\nfrom {module} import {function} as _instead\n\n\n"
            f"def {exercise}(*args, **kwargs):\n    return _instead(*args, **kwargs)\n",
        )


def thefts(top: str, exercise: str, oracles: list[str]) -> Iterator[Mutation]:
    """Answers that look for the grader's own functions while it runs, and return what they say."""
    ways = {
        "the loaded modules": (
            "import sys as _sys\n",
            "[vars(m) for m in list(_sys.modules.values()) if hasattr(m, {oracle!r})]",
        ),
        "the caller's frame": ("import sys as _sys\n", "[_sys._getframe(1).f_globals]"),
    }
    for oracle in oracles:
        for way, (imports, holders) in ways.items():
            yield Mutation(
                "–",
                f"takes the grader's {oracle} from {way}",
                f"{top}\n{imports}\n\ndef {exercise}(*args, **kwargs):\n"
                f"    for holder in {holders.format(oracle=oracle)}:\n"
                f"        if {oracle!r} in holder:\n"
                f"            return holder[{oracle!r}](*args, **kwargs)\n",
            )
