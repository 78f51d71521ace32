"""Every method, found in lightning_ad.methods, with arguments with which a run takes seconds."""

import json
from inspect import signature
from pathlib import Path

import torch
import yaml

from lightning_ad import methods
from lightning_ad.methods import AnomalyModule, FitOnlyModule, LearnedModule

BASES = (AnomalyModule, FitOnlyModule, LearnedModule)
SMALL = Path(__file__).parents[1] / "methods/small"
EPOCHS = 2


def method_names(base):
    """The methods that derive from a base class, by the names that --model takes."""
    found = []
    for name, method in sorted(vars(methods).items()):
        if isinstance(method, type) and issubclass(method, base) and method not in BASES:
            found.append(name)
    return found


def goes_on(method):
    """Whether a fit-only method goes on with a fit that was stopped."""
    return getattr(methods, method).partial_state is not FitOnlyModule.partial_state


ALL = method_names(AnomalyModule)
LEARNED = method_names(LearnedModule)
FIT_ONLY = method_names(FitOnlyModule)
RESUMABLE = [name for name in FIT_ONLY if goes_on(name)]  # of the fit-only ones


def small_arguments(method):
    """A small backbone with random weights, if the method takes one, and what its own file says.

    The file is tests/methods/small/<method>.yaml; a method that is quick enough needs none.
    """
    arguments = {}
    if "backbone" in signature(getattr(methods, method)).parameters:
        arguments = {"backbone": "squeezenet1_1", "weights": None}
    file = SMALL / f"{method}.yaml"
    if file.is_file():
        arguments |= yaml.safe_load(file.read_text())
    return arguments


def make_small(method, **options):
    """A small method with random weights, always the same."""
    torch.manual_seed(0)
    return getattr(methods, method)(**{**small_arguments(method), **options})


def small_flags(method):
    """The flags of a small run of a method."""
    flags = []
    for name, value in small_arguments(method).items():
        flags += [f"--model.{name}", value if isinstance(value, str) else json.dumps(value)]
    if method in LEARNED:
        flags += ["--trainer.max_epochs", str(EPOCHS)]
    return flags
