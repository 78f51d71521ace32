"""Python's search for garbage, which takes a fifth of the tests' time if it is left as it is."""

import gc

OBJECTS = 200_000  # made between two searches; Python's own number is 700


def seldom_collect_garbage():
    """Searches seldom, and not among what is there by now: modules stay, and are many."""
    gc.freeze()
    gc.set_threshold(OBJECTS, 50, 100)
