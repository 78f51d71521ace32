"""Trains a method, tests it, and writes the run folder: python train.py --help."""

import sys

from lightning_ad.commands import run, train

if __name__ == "__main__":
    sys.exit(run(train))
