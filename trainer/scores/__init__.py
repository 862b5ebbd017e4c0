"""How good a segmentation is: the challenges' own scores and general ones.

Everything here is NumPy on arrays, without TensorFlow: no score knows where a
segmentation comes from.
"""
