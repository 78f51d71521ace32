"""Evaluates a finished run again, or on other data: python evaluate.py runs/<name>."""

import sys

from lightning_ad.start import start

if __name__ == "__main__":
    sys.exit(start("evaluate_script"))
