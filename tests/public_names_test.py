import pathlib
import runpy

import tfp_realnvp

_ROOT = pathlib.Path(__file__).parent.parent


def test_all_is_what_is_public():
  public = [
    name
    for name, value in vars(tfp_realnvp).items()
    if not name.startswith('_') and type(value).__name__ != 'module'
  ]
  assert sorted(public) == tfp_realnvp.__all__


def test_samples_can_be_shown_without_another_import():
  names = runpy.run_path(tfp_realnvp.__file__)
  shown = names['visualization'].to_uint8([-1.0, 16.5], 17)
  assert shown.tolist() == [0, 255]


def test_every_public_name_is_documented_and_in_the_reference():
  reference = (_ROOT / 'docs' / 'api.md').read_text().splitlines()
  for name in tfp_realnvp.__all__:
    assert getattr(tfp_realnvp, name).__doc__, name
    assert f'   {name}' in reference, name


def test_version_is_in_the_changelog_and_the_citation():
  changelog = (_ROOT / 'CHANGELOG.md').read_text()
  assert f'## [{tfp_realnvp.__version__}]' in changelog
  citation = (_ROOT / 'CITATION.cff').read_text()
  assert f'\nversion: {tfp_realnvp.__version__}\n' in citation
