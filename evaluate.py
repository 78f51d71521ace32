"""Evaluates a finished run again, or on other data: python evaluate.py runs/<name>."""

import sys

from lightning_ad.main import evaluate_or_compare, run

if __name__ == "__main__":
    sys.exit(run(evaluate_or_compare))
