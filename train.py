"""Trains a method, tests it, and writes the run folder: python train.py --help."""

import sys

from lightning_ad.main import run, train_one_or_each

if __name__ == "__main__":
    sys.exit(run(train_one_or_each))
