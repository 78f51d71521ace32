"""Checks of constructor arguments that several methods share."""

from lightning_ad.errors import UsageError


def check_at_least(**arguments: tuple[float | None, float]) -> None:
    """Raises UsageError for an argument below its minimum.

    Args:
        arguments: the value and the minimum of each argument, by its name. A value of None passes.
    """
    for name, (value, least) in arguments.items():
        if value is not None and value < least:
            raise UsageError(f"model.{name} must be at least {least}, got {value}")


def check_within(lowest: float, highest: float, **arguments: float) -> None:
    """Raises UsageError for an argument, given by its name, outside [lowest, highest]."""
    for name, value in arguments.items():
        if not lowest <= value <= highest:
            raise UsageError(f"model.{name} must be from {lowest} to {highest}, got {value}")


def check_odd(**arguments: int) -> None:
    """Raises UsageError for an argument, given by its name, that is not odd and positive."""
    for name, value in arguments.items():
        if value < 1 or value % 2 == 0:
            raise UsageError(f"model.{name} must be odd and positive, got {value}")


def bytes_of(gib: float | None) -> int | None:
    """Returns a memory budget in bytes; None stays None, for no limit."""
    if gib is None:
        return None
    return int(gib * 2**30)
