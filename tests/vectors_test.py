import pytest

from examples import vectors


@pytest.mark.slow
def test_program_on_tiny_data(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(vectors, 'NUM_ROWS', 5000)
  monkeypatch.setattr(vectors, 'NUM_EPOCHS', 10)
  monkeypatch.chdir(tmp_path)
  vectors.main()
  log_likelihood = float(capsys.readouterr().out.split()[-2])
  assert -2.5 < log_likelihood < -0.5  # A Gaussian reaches -1.89.
  assert (tmp_path / 'moons.png').stat().st_size > 1000
