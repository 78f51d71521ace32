"""`python -m lightning_ad`: the same as `lightning-ad`."""

import sys

from lightning_ad.start import main

if __name__ == "__main__":
    sys.exit(main())
