"""The rooms import in the directions that docs/architecture.md lists, and in no circle."""

import ast
import re
from functools import cache

import pytest
from paths import ROOT

PACKAGE = ROOT / "lightning_ad"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module):
    """The folder below the package, or the file of its root; the package itself has no room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def imports(module):
    """The modules of the package that a module imports, at its head or within functions."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in FILES:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                found.add(member if member in FILES else node.module)
    return found - {module}


def listed_directions():
    """The block of docs/architecture.md that says what each room may import."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = page.partition("```rooms\n")[2].partition("```")[0]
    rows = [re.split(r"\s+", line.strip()) for line in block.splitlines() if line.strip()]
    return {name: set(allowed) - {"-"} for name, *allowed in rows}


ROOMS = sorted({room(module) for module in FILES} - {"__init__"})


def test_every_room_is_listed():
    assert sorted(listed_directions()) == ROOMS


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_what_is_listed_for_it_and_all_of_that(name):
    own = [module for module in FILES if room(module) == name]
    used = {room(target) for module in own for target in imports(module)}
    assert used - {name, "__init__"} == listed_directions()[name]


def test_rooms_and_files_import_in_no_circle():
    by_room = {name: listed_directions()[name] for name in ROOMS}
    assert circle(by_room) is None
    by_file = {}
    for module in FILES:
        if room(module) != "__init__":  # the lazy names of the package stand for all rooms
            by_file[module] = imports(module) - {"lightning_ad"}
    assert circle(by_file) is None


def circle(graph):
    """A circle as a list of its members, or None."""
    done = set()

    def search(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph.get(node, ())):
            if found := search(target, [*path, node]):
                return found
        done.add(node)
        return None

    for node in graph:
        if found := search(node, []):
            return found
    return None


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_the_root_holds_what_the_design_allows():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == {"__init__", "__main__", "errors", "inspector"}


def third_party(module):
    """The libraries that a module imports itself, at once or when they are first used."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "LazyModule":
            found.add(node.args[0].value.partition(".")[0])
    return found


def reached(module):
    """The module, those of the package that it imports, those that they import, and so on."""
    found = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name == "lightning_ad":
            continue
        found.add(name)
        waiting += [*imports(name), name.rpartition(".")[0]]  # a module runs its package first
    return found


BANNED = {
    "statistics": {"lightning"},
    "data": {"timm", "torchvision", "segmentation_models_pytorch"},
}


@pytest.mark.parametrize("name", BANNED)
def test_statistics_are_pure_torch_and_data_read_no_network(name):
    found = []
    for module in FILES:
        if room(module) == name:
            for target in sorted(reached(module)):
                banned = third_party(target) & BANNED[name]
                found += [f"{module} imports {library} by {target}" for library in banned]
    assert not found


def test_imports_are_followed_through_other_rooms():
    assert "lightning" in third_party("lightning_ad.system.progress")
    assert "timm" in third_party("lightning_ad.features.backbone")
    assert "lightning_ad.features.backbone" in reached("lightning_ad.methods.cfa.model")
    assert "lightning_ad.methods.cfa" in reached("lightning_ad.methods.cfa.networks")
