"""TensorFlow's start, GPUs, clusters of workers, and what their errors mean."""
