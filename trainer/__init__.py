"""TFRecord shards in, a trained U-Net and its SavedModel out."""
