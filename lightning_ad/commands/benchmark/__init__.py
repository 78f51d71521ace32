"""`lightning-ad benchmark`: methods on data sets with several seeds, each cell a run, all of them one table."""
