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
    if call.func.id in ('py_library', 'py_binary', 'pytest_test'):
      keywords = {
        k.arg: ast.literal_eval(k.value)
        for k in call.keywords
        if k.arg in ('name', 'srcs', 'data', 'deps')
      }
      keywords['rule'] = call.func.id
      assert keywords['name'] not in targets
      targets[keywords['name']] = keywords
  return targets


def _modules():
  paths = [p for f in _FOLDERS for p in sorted((_ROOT / f).rglob('*.py'))]
  modules = {str(path.relative_to(_ROOT)): path for path in paths}
  return {
    name: path
    for name, path in modules.items()
    if (path.name != '__init__.py' or name.startswith('tfp_realnvp'))
    # The macro adds these to every test.
    and name not in ('tests/conftest.py', 'tests/run_pytest.py')
  }


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


@pytest.mark.parametrize('name', _targets())
def test_deps_are_the_imports(name):
  targets = _targets()
  owner = {s: name for name, t in targets.items() for s in t['srcs']}
  modules = set().union(
    *map(_imports, map(_ROOT.joinpath, targets[name]['srcs']))
  )
  expected = {f':{owner[module]}' for module in modules} - {f':{name}'}
  assert set(targets[name].get('deps', [])) == expected


def _programs(path):
  """The programs that a test runs, by calls of `program_testing`."""
  return {
    node.args[0].value
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Attribute)
    and isinstance(node.func.value, ast.Name)
    and node.func.value.id == 'program_testing'
    and node.func.attr in ('begin', 'command', 'run', 'run_program')
    and isinstance(node.args[0], ast.Constant)
  }


@pytest.mark.parametrize('name', _targets())
def test_data_have_the_programs_that_a_test_runs(name):
  target = _targets()[name]
  if target['rule'] == 'pytest_test':
    programs = set().union(*map(_programs, map(_ROOT.joinpath, target['srcs'])))
    given = {*target.get('data', []), *target.get('deps', [])}
    assert {f':{program}' for program in programs} <= given


def test_every_library_module_has_its_test():
  targets = _targets()
  for path in _modules():
    folder, *_, module = path.removesuffix('.py').split('/')
    # Benchmarks are programs, whose parts `benchmarks_test` holds.
    if folder in ('tfp_realnvp', 'examples') and module != '__init__':
      assert targets[f'{module}_test']['rule'] == 'pytest_test'
      assert (_ROOT / 'tests' / f'{module}_test.py').exists()
