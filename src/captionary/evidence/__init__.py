"""Paper §4: what caption features are worth, and whether the figures can be trusted.

`metrics` measures, `arms` and `placebo` say what is compared, `compare` tests, `evaluate` does it all for a
set of predictions, `verdict` puts it into words, `result` keeps it, `tables`, `plots` and `report` show it.
"""
