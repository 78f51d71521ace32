"""Trains a method, tests it, and writes the run folder: python train.py --help."""

import sys

from lightning_ad.__main__ import start

if __name__ == "__main__":
    sys.exit(start(["train", *sys.argv[1:]]))
