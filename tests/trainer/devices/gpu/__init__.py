"""What TensorFlow would do with our graphs on GPUs, found without one."""
