"""From flags and YAML to a model, its data and a trainer."""
