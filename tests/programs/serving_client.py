"""Calls a SavedModel where only TensorFlow can be imported."""

import sys

for name in ('tfp_realnvp', 'tensorflow_probability', 'tf_keras', 'keras'):
  sys.modules[name] = None
import numpy as np
import tensorflow as tf

path, inputs, outputs = sys.argv[1:]
model = tf.saved_model.load(path)
with np.load(inputs) as arrays:
  images = arrays['images']
answers = dict(model.signatures['serving_default'](images=images))
answers |= model.signatures['encode'](images=images)
answers |= model.signatures['decode'](latents=answers['latents'])
np.savez(outputs, **{name: answer.numpy() for name, answer in answers.items()})
