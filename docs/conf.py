"""Sphinx configuration: `sphinx-build -W docs docs/_build` builds the site."""

import re

import tfp_realnvp

project = 'tfp_realnvp'
author = 'The tfp_realnvp authors'
copyright = f'2026, {author}'  # The name that Sphinx reads.
release = tfp_realnvp.__version__

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'sphinx_copybutton',
]
exclude_patterns = ['_build', 'jupyter_execute', 'results']
templates_path = ['_templates']
html_theme = 'furo'
html_title = 'tfp_realnvp'
html_static_path = ['results']

myst_heading_anchors = 3

# Pages with cells are executed, and an error in a cell ends the build.
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = 'remove'  # Messages of TensorFlow.

autosummary_generate = True
autoclass_content = 'both'
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
napoleon_use_ivar = True


def _to_rst(app, what, name, obj, options, lines):
  """Turns the Markdown of docstrings, as TFP writes them, into RST."""
  del app, what, name, obj, options
  is_code = False
  result = []
  for line in lines:
    indent = line[: len(line) - len(line.lstrip())]
    if line.lstrip().startswith('```'):
      is_code = not is_code
      result += [f'{indent}.. code-block:: python', ''] if is_code else ['']
    elif is_code:
      result.append('  ' + line)
    elif line.lstrip().startswith('#### '):
      result += [f'{indent}.. rubric:: {line.lstrip(" #")}', '']
    else:
      line = re.sub(r'^(\s*)\[(\d+)\]: ', r'\1:[\2]: ', line)
      line = re.sub(r'`([^`]+)`', r'``\1``', line.replace('|', r'\|'))
      result.append(re.sub(r'(?<!\w)_(\w[^_]*)_(?!\w)', r'*\1*', line))
  lines[:] = result


def setup(app):
  # Before napoleon, which has the priority 500.
  app.connect('autodoc-process-docstring', _to_rst, priority=400)
