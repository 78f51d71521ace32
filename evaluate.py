"""Evaluates a finished run again, or on other data: python evaluate.py runs/<name>."""

import sys

from lightning_ad.__main__ import start

if __name__ == "__main__":
    sys.exit(start(["evaluate", *sys.argv[1:]]))
