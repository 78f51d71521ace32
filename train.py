"""Trains a method, tests it, and writes the run folder: python train.py --help."""

import sys

from lightning_ad.start import start

if __name__ == "__main__":
    sys.exit(start("train_script"))
