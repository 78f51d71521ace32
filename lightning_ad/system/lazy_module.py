"""Third-party modules that are slow to import, and that most commands never use."""

from importlib import import_module
from typing import Any


class LazyModule:
    """A module that is imported at the first use of one of its attributes.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
