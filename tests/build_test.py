"""Holds BUILD against the modules, their imports and their tests."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_FOLDERS = ('tfp_realnvp', 'examples', 'benchmarks', 'tests')


def _targets():
  """Every rule of BUILD: `{name: {attribute: value}}`."""
  targets = {}
  for node in ast.parse((_ROOT / 'BUILD').read_text()).body:
    call = node.value
    if call.func.id in ('py_library', 'py_binary', 'py_test'):
      keywords = {
        k.arg: ast.literal_eval(k.value)
        for k in call.keywords
        if k.arg in ('name', 'srcs', 'deps')
      }
      keywords['rule'] = call.func.id
      assert keywords['name'] not in targets
      targets[keywords['name']] = keywords
  return targets


def _modules():
  paths = (p for f in _FOLDERS for p in sorted((_ROOT / f).glob('*.py')))
  return {str(p.relative_to(_ROOT)): p for p in paths}


def _imports(path):
  """The project's own modules that a module imports, as paths."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module] + [f'{node.module}.{a.name}' for a in node.names]
    else:
      continue
    for name in names:
      file = name.replace('.', '/')
      # `from package import module` needs the module, not the package.
      if (_ROOT / f'{file}.py').exists() and file.split('/')[0] in _FOLDERS:
        found.add(f'{file}.py')
      elif (_ROOT / 'examples' / f'{file}.py').exists():
        found.add(f'examples/{file}.py')  # Programs import what is beside them.
      elif name == 'tfp_realnvp' and isinstance(node, ast.Import):
        found.add('tfp_realnvp/__init__.py')
  return found


def test_every_module_has_one_target_and_every_target_exists():
  sources = [s for t in _targets().values() for s in t['srcs']]
  assert sorted(sources) == sorted(_modules())


@pytest.mark.parametrize('path', _modules())
def test_deps_are_the_imports(path):
  targets = _targets()
  owner = {s: name for name, t in targets.items() for s in t['srcs']}
  target = targets[owner[path]]
  expected = {f':{owner[module]}' for module in _imports(_modules()[path])}
  assert set(target.get('deps', [])) == expected


def test_every_library_module_has_its_test():
  targets = _targets()
  for path in _modules():
    folder, module = path.removesuffix('.py').split('/')
    # Benchmarks are programs, whose parts `benchmarks_test` holds.
    if folder in ('tfp_realnvp', 'examples') and module != '__init__':
      assert targets[f'{module}_test']['rule'] == 'py_test'
      assert (_ROOT / 'tests' / f'{module}_test.py').exists()
