"""How good a run is: scores, tuning, folds, and the report."""
