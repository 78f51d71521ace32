"""Folder layouts on disk. A layout is one module here with a function

    find(root: Path, category: str | None, *, <options>) -> list[Sample]

that finds samples and reads no image (KolektorSDD's masks tell which images are defective: those it reads), a docstring
that draws the tree, and SOURCE and LICENCE. Where the data set has categories, `categories(root: Path) -> list[str]`;
where the program itself makes the data, `prepare(root: Path) -> None`. Adding the module is all that it takes.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import yaml

from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, MissingFolderError, UsageError


def layout_names() -> list[str]:
    """The names that `data.layout` takes."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def prepare_layout(layout: str, root: Path) -> None:
    """Makes the data where the layout makes its own (`demo`); does nothing otherwise.

    Raises:
        UsageError: for an unknown layout.
    """
    prepare = getattr(layout_module(layout), "prepare", None)
    if prepare is not None:
        prepare(root)


def categories(
    layout: str, root: Path, options: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """The categories of a data set; none where the layout has none, or `root` is one.

    Args:
        layout: its name.
        root: the folder of the data set.
        options: of the layout; those that its categories do not depend on are passed over.

    Raises:
        UsageError: for an unknown layout.
    """
    names = getattr(layout_module(layout), "categories", None)
    if names is None or not root.is_dir():
        return []
    return names(
        root, **{k: v for k, v in options.items() if k in inspect.signature(names).parameters}
    )


def find_samples(
    layout: str, root: Path, category: str | None, options: dict[str, Any]
) -> list[Sample]:
    """All samples of a data set, in an order that depends on the file names alone.

    Whether their files are there is not asked.

    Raises:
        UsageError: for an unknown layout, category or option.
        DataError: where the tree is not as the layout says.
    """
    module, known = layout_module(layout), option_names(layout)
    find: Callable[..., list[Sample]] = module.find
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(
            f"layout '{layout}' has no option {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known) if known else 'none'} (data.layout_options)"
        )
    kinds = inspect.signature(find).parameters
    for (
        name,
        value,
    ) in options.items():  # a flag such as --data.layout_options.test_share brings a text
        if isinstance(value, str) and kinds[name].annotation in (int, float, bool):
            options = {**options, name: _number(name, value, kinds[name].annotation)}
    if not root.is_dir():
        raise DataError(f"no data set at {root}: there is no such folder. {expected_tree(module)}")
    try:
        samples = find(root, category, **options)
    except MissingFolderError as error:
        raise DataError(f"{error}. {expected_tree(module)}") from error
    return sorted(samples, key=lambda s: (s.split, s.path))


def option_names(layout: str) -> list[str]:
    """The options of a layout.

    Raises:
        UsageError: for an unknown one.
    """
    parameters = inspect.signature(layout_module(layout).find).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def expected_tree(module: ModuleType) -> str:
    """What a layout expects on disk, for an error message."""
    tree = inspect.getdoc(module) or ""
    return f"Layout '{module.__name__.rpartition('.')[2]}' expects\n\n{tree}\n\nGive the folder with data.root."


def _number(name: str, value: str, kind: type) -> Any:
    read = yaml.safe_load(value)
    if isinstance(read, bool) != (kind is bool) or not isinstance(read, int | float):
        raise UsageError(f"data.layout_options.{name}: expected {kind.__name__}; '{value}' came")
    return kind(read)


def layout_module(layout: str) -> ModuleType:
    """The module of a layout.

    Raises:
        UsageError: for an unknown one.
    """
    if layout not in layout_names():
        raise UsageError(
            f"unknown layout '{layout}'; data.layout is one of {', '.join(layout_names())}"
        )
    return import_module(f"{__name__}.{layout}")
