"""Graph functions without AutoGraph.

Loops and branches on tensors are written out here (tf.while_loop, tf.cond), so that no
function's source has to be rewritten before the first step: that took a fifth of it.
"""

import functools

import tensorflow as tf

graph_function = functools.partial(tf.function, autograph=False)  # as tf.function
# For what others trace, such as tf.data.
as_written = tf.autograph.experimental.do_not_convert
