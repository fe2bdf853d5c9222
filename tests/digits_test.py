import pytest
import tensorflow as tf

from examples import digits


@pytest.mark.slow
def test_program_on_tiny_data(tmp_path, monkeypatch, capsys):
  train, test = digits.load_digits()
  assert (len(train), len(test)) == (1500, 297)
  monkeypatch.setattr(digits, 'load_digits', lambda: (train[:128], test[:64]))
  for name, value in (
    ('NUM_BLOCKS', 1),
    ('HIDDEN_CHANNELS', 2),
    ('NUM_EPOCHS', 1),
  ):
    monkeypatch.setattr(digits, name, value)
  monkeypatch.chdir(tmp_path)
  digits.main()
  assert 2 < float(capsys.readouterr().out.split()[-2]) < 8
  picture = tf.io.decode_png(tf.io.read_file('digits.png'))
  assert picture.shape == [265, 538, 1]
