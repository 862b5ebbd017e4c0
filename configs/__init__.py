"""One file a data set: `get_config(variant)` with variants "", "cpu" and "smoke"."""
