"""Runs train.py on images of which one cannot be decoded."""

import dataclasses

from absl import app
import tensorflow as tf
import train

from tfp_realnvp.paper import data as image_data

load = image_data.load


def load_damaged(*args):
  data = load(*args)

  def decode(element):  # The third image is damaged.
    png = tf.where(element['number'] == 2, b'no image', png_of_zeros)
    return tf.ensure_shape(tf.io.decode_png(png), [8, 8, 1]), None

  png_of_zeros = tf.io.encode_png(tf.zeros([8, 8, 1], tf.uint8)).numpy()
  numbers = tf.data.Dataset.range(1500).map(lambda i: {'number': i})
  return dataclasses.replace(
    data, train=numbers, test=numbers.take(2), decode=decode
  )


image_data.load = load_damaged
train.define_flags()
app.run(train.main)
