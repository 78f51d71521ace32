"""`lightning-ad benchmark`: methods on data sets with several seeds; each cell is a run."""
