"""Images in, masks out: a model over files, with all that people then look at."""
