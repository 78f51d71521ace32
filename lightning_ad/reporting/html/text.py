"""Numbers and elements as HTML and JavaScript text."""

import math
from collections.abc import Iterable


def elements(tag: str, contents: Iterable[str]) -> str:
    """Wraps each of the contents in an HTML element."""
    return "".join(f"<{tag}>{content}</{tag}>" for content in contents)


def script_number(value: float) -> str:
    """Formats a number as a literal of JavaScript."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def shown_number(value: float) -> str:
    """Formats a number with four digits, or as n/a."""
    if math.isnan(value):
        return "n/a"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")
