"""What makes many small runs quick, and changes no result."""

import gc

OBJECTS = 200_000  # made between two searches for garbage; Python's own number is 700
TOGETHER = 8  # images that are tried at once: tests have few, and to try 32 takes longer than they


def make_small_runs_quick():
    """Sets numbers of this process; everything must be imported by now.

    Garbage is searched seldom, and not among the modules, which are many and stay. A frozen network
    tries how many small images may go together before it takes the first.
    """
    from lightning_ad.features import fusion

    fusion.MOST_TOGETHER = TOGETHER
    gc.freeze()
    gc.set_threshold(OBJECTS, 50, 100)
