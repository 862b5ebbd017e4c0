"""Runs serving_default by TensorFlow alone: raw float32 files in and out.

python tensorflow_alone.py MODEL IMAGE OUTPUT HEIGHT WIDTH CHANNELS
"""

import sys

if __name__ == "__main__":
    import numpy as np
    import tensorflow as tf

    model, image, output, *shape = sys.argv[1:]
    pixels = np.fromfile(image, np.float32).reshape(1, *map(int, shape))
    signature = tf.saved_model.load(model).signatures["serving_default"]
    signature(image=tf.constant(pixels))["probabilities"].numpy().tofile(output)
