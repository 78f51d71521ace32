"""The rules of plain code that ruff does not know, for every file of the package."""

import ast

import pytest
from paths import ROOT

PACKAGE = ROOT / "lightning_ad"
MOST_COMPLEX = 10
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert, ast.comprehension)


def complexity(function):
    """One, and one more for each branch, each `and` or `or`, and each loop of a comprehension."""
    count = 1
    for node in ast.walk(function):
        count += isinstance(node, BRANCHES)
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def complex_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and complexity(node) > MOST_COMPLEX:
            yield node, f"{node.name} has complexity {complexity(node)}, more than {MOST_COMPLEX}"


def tuple_assignments(tree):
    """`a, b = 1, 2`; a swap is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            for target in node.targets:
                swap = {*map(ast.dump, names(target))} == {*map(ast.dump, names(node.value))}
                if isinstance(target, ast.Tuple) and not swap:
                    yield node, "several values are assigned in one statement"


def names(node):
    return [ast.Name(n.id) for n in ast.walk(node) if isinstance(n, ast.Name)]


def nested_comprehensions(tree):
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            inner = [child for child in ast.walk(node) if isinstance(child, COMPREHENSIONS)]
            if len(inner) > 1:
                yield node, "a comprehension in a comprehension"


def lists_times_conditions(tree):
    """`[x] * (a > b)` and `[x] * bool(y)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = (node.left, node.right)
            lists = any(isinstance(side, ast.List | ast.Tuple) for side in sides)
            if lists and any(is_condition(side) for side in sides):
                yield node, "a list times a condition"


def is_condition(node):
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "bool"
    negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    return negated or isinstance(node, ast.Compare | ast.BoolOp)


def stray_walruses(tree):
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.If | ast.While)]
    allowed = {id(node) for test in tests for node in ast.walk(test)}
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr) and id(node) not in allowed:
            yield node, "a walrus outside the test of an if or a while"


RULES = [
    complex_functions,
    tuple_assignments,
    nested_comprehensions,
    lists_times_conditions,
    stray_walruses,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    broken = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, message in rule(tree):
            broken.append(f"{path.relative_to(PACKAGE.parent)}:{node.lineno}: {message}")
    assert not broken, "\n".join(broken)


BROKEN = {
    complex_functions: "def f(a):\n    return " + " or ".join(["a"] * 12),
    tuple_assignments: "a, b = 1, 2",
    nested_comprehensions: "x = [[b for b in a] for a in c]",
    lists_times_conditions: "x = [1] * bool(y) + [2] * (a > b)",
    stray_walruses: "x = (y := 3)",
}
KEPT = """
def f(a):
    a, b = b, a
    height, width = size
    if (x := a) and [n for n in a]:
        return [0] * len(a)
"""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_breaks_it(rule):
    assert list(rule(ast.parse(BROKEN[rule])))
    assert not list(rule(ast.parse(KEPT)))
