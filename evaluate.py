"""Evaluates a finished run again, or on other data: python evaluate.py runs/<name>."""

import sys

from lightning_ad.commands import evaluate, run

if __name__ == "__main__":
    sys.exit(run(evaluate))
