"""PFM: pre-trained feature mapping, and PEFM, which adds a position encoding."""
