"""Folder layouts on disk. A layout is one module here with a function

    find(root: Path, category: str | None, *, <options>) -> list[Sample]

that finds samples and reads no image (except masks, if these tell which images are defective: then
LABELS_FROM_MASKS is true), a docstring that draws the tree, and SOURCE and LICENCE. If the data set
has categories, `categories(root: Path) -> list[str]`; if the program makes the data itself,
`prepare(root: Path) -> None`. A layout is found by its file: nothing else has to be registered.
"""

import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from lightning_ad.data.layouts._files import UNLABELLED
from lightning_ad.data.listing import noting_passed_over
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, MissingFolderError, UsageError
from lightning_ad.system.yaml_text import NotYamlError, load_yaml


def layout_names() -> list[str]:
    """Returns the names that `data.layout` takes."""
    modules = pkgutil.iter_modules(__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


@cache
def layout_module(layout: str) -> ModuleType:
    """Imports the module of a layout.

    Raises:
        UsageError: for an unknown layout.
    """
    names = layout_names()
    if layout not in names:
        raise UsageError(f"unknown layout '{layout}'; data.layout is one of {', '.join(names)}")
    return import_module(f"{__name__}.{layout}")


def prepare_layout(layout: str, root: Path) -> None:
    """Makes the data if the layout makes its own (`demo`); does nothing otherwise.

    Raises:
        UsageError: for an unknown layout.
    """
    prepare = getattr(layout_module(layout), "prepare", None)
    if prepare is not None:
        prepare(root)


def labels_come_from_masks(layout: str) -> bool:
    """Returns whether a layout reads its masks to tell which images are defective.

    Raises:
        UsageError: for an unknown layout.
    """
    return getattr(layout_module(layout), "LABELS_FROM_MASKS", False)


def categories(
    layout: str, root: Path, options: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """Returns the categories of a data set; none if the layout has none, or `root` is one.

    Args:
        layout: the name of the layout.
        root: the folder of the data set.
        options: the options of the layout; those that its categories do not depend on are ignored.

    Raises:
        UsageError: for an unknown layout.
    """
    names = getattr(layout_module(layout), "categories", None)
    if names is None or not root.is_dir():
        return []
    known = inspect.signature(names).parameters
    return names(root, **{name: value for name, value in options.items() if name in known})


def find_samples(
    layout: str, root: Path, category: str | None, options: Mapping[str, Any]
) -> list[Sample]:
    """Finds all samples of a data set, in an order that depends on the file names alone.

    It does not check that their files exist.

    Raises:
        UsageError: for an unknown layout, category or option.
        DataError: if the tree is not as the layout says.
    """
    module = layout_module(layout)
    checked = _checked_options(layout, options)
    if not root.is_dir():
        raise DataError(f"no data set at {root}: there is no such folder. {expected_tree(module)}")
    try:
        with noting_passed_over():
            samples = module.find(root, category, **checked)
    except MissingFolderError as error:
        raise DataError(f"{error}. {expected_tree(module)}") from error
    return sorted(samples, key=lambda sample: (sample.split, sample.path))


def option_names(layout: str) -> list[str]:
    """Returns the options of a layout.

    Raises:
        UsageError: for an unknown layout.
    """
    parameters = inspect.signature(layout_module(layout).find).parameters.values()
    return [option.name for option in parameters if option.kind is option.KEYWORD_ONLY]


def expected_tree(module: ModuleType) -> str:
    """Describes what a layout expects on disk, for an error message."""
    name = module.__name__.rpartition(".")[2]
    tree = inspect.getdoc(module)
    return f"Layout '{name}' expects\n\n{tree}\n\nGive the folder with data.root. {UNLABELLED}"


def _checked_options(layout: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with their types; a flag of the command line brings a text."""
    known = option_names(layout)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"layout '{layout}' has no option {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(known) or 'none'} (data.layout_options)"
        )
    parameters = inspect.signature(layout_module(layout).find).parameters
    checked = {}
    for name, value in options.items():
        kind = parameters[name].annotation
        if isinstance(value, str) and kind in (int, float, bool):
            value = _parsed(name, value, kind)
        checked[name] = value
    return checked


def _parsed(name: str, text: str, kind: type) -> int | float | bool:
    """Parses a number, or true or false."""
    try:
        value = load_yaml(text)
    except NotYamlError:
        value = None
    is_number = isinstance(value, int | float)
    if not is_number or isinstance(value, bool) != (kind is bool):
        raise UsageError(f"data.layout_options.{name}: expected {kind.__name__}, got '{text}'")
    return kind(value)
