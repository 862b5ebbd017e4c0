"""predict: formats, stacks, reruns, broken files, several devices."""
