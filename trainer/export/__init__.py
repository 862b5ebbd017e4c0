"""A trained run as one artefact: SavedModel, ONNX, model card, published version."""
