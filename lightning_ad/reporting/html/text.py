"""Numbers and elements as text of the page."""

import math
from collections.abc import Iterable


def elements(tag: str, contents: Iterable[str]) -> str:
    """An HTML element for each of some contents."""
    return "".join(f"<{tag}>{content}</{tag}>" for content in contents)


def script_number(value: float) -> str:
    """A number as a literal of JavaScript."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def shown_number(value: float) -> str:
    """A number with four digits, or n/a."""
    if math.isnan(value):
        return "n/a"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")
