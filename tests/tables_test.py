"""Tests which tables are read, and the errors of those that are not."""

import bz2
import gzip

import numpy as np
import pandas as pd
import pytest

from tfp_realnvp import tables

_ROWS = [[1.0, -2.5], [30.0, 0.004], [5.0, 6.0]]


def _read(path, text, **kwargs):
  path.write_text(text)
  return tables.read_table(str(path), 'csv', **kwargs)


@pytest.mark.parametrize(
  'text',
  [
    'a,b\n1,-2.5\n30,4e-3\n5,6\n',
    'a, b\r\n1, -2.5\r\n30, 4e-3\r\n5, 6',
    '\ufeff"a";"b"\n1;-2.5\n30;4e-3\n5;6\n',
    'a\tb\n1\t-2.5\n30\t4e-3\n5\t6\n\n',
    '  a   b\n  1  -2.5\n 30  4e-3 \n  5   6\n',
    '# a,b\n1,-2.5\n30,4e-3\n5,6\n',
  ],
)
def test_separators_and_headers(text, tmp_path):
  frame = _read(tmp_path / 'table.csv', text)
  np.testing.assert_array_equal(frame, _ROWS)
  assert [*frame.columns] == ['a', 'b']
  assert [*frame.index] == [2, 3, 4]


def test_without_a_header_columns_have_numbers(tmp_path):
  frame = _read(tmp_path / 'table.txt', '\n1 -2.5\n\n30 4e-3\n5 6\n')
  np.testing.assert_array_equal(frame, _ROWS)
  assert [*frame.columns] == ['1', '2']
  assert [*frame.index] == [2, 4, 5]


@pytest.mark.parametrize(
  'text, names',
  [
    ('key,2019\n1,2\n', ['key', '2019']),
    (',0,1\n0,5,6\n', ['1', '2', '3']),
    ('1,Alice\n2,Bob\n', ['1', '2']),
    ('a,b\nx,y\n', ['a', 'b']),
    ('a,b\n,y\n', ['a', 'b']),
  ],
)
def test_headers_are_text_above_numbers(text, names, tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text(text)
  with pytest.raises(SystemExit) as error:
    tables.read_table(str(path), 'csv', drop_columns=['none'])
  assert str(error.value).endswith(f'{", ".join(map(repr, names))}.')


def test_names_may_have_other_separators(tmp_path):
  frame = _read(tmp_path / 'a.csv', 'length (cm),the age\n1,2\n')
  assert [*frame.columns] == ['length (cm)', 'the age']
  frame = _read(tmp_path / 'b.csv', 'a;b c\n1 2\n', separator='whitespace')
  assert [*frame.columns] == ['a;b', 'c']


@pytest.mark.parametrize('suffix, module', [('gz', gzip), ('bz2', bz2)])
def test_compressed_tables(suffix, module, tmp_path):
  path = tmp_path / f'table.csv.{suffix}'
  path.write_bytes(module.compress(b'a,b\n1,-2.5\n30,4e-3\n5,6\n'))
  np.testing.assert_array_equal(tables.read_table(str(path), 'csv'), _ROWS)


def test_columns_and_rows_are_left_out(tmp_path, caplog):
  text = 'a,name,b\n1,x,2\n3,y,\n5,,6\nNA,z,?\ninf,z,9\n'
  frame = _read(
    tmp_path / 'table.csv', text, drop_columns=['name'], drop_missing=True
  )
  np.testing.assert_array_equal(frame, [[1, 2], [5, 6]])
  assert [*frame.index] == [2, 4]
  assert 'Dropped 3 of 5 rows' in caplog.text
  with pytest.raises(SystemExit, match='no row without missing values'):
    _read(tmp_path / 'table.csv', 'a,b\n1,\n', drop_missing=True)
  with pytest.raises(SystemExit, match='no columns are left'):
    _read(tmp_path / 'table.csv', 'a,b\n1,2\n', drop_columns=['a', 'b'])


@pytest.mark.parametrize(
  'content, message',
  [
    (None, 'cannot be read'),
    (b'', 'is empty'),
    (b' \n\n', 'is empty'),
    (b'a,b\n', 'has no rows, or no columns are left'),
    (b'\x89PNG\r\n\xff\xfe', 'not a text file in UTF-8'),
    (b'a,b\n1\0,2\n', 'not a text file'),
    (b'a,b\n1,2\n1,2,3\n', 'Expected 2 fields in line 3, saw 3'),
    (b'a,b\n1,2,3\n1,2,3\n', 'more fields than its header'),
    (
      b'a,b\n1,2\n\n3,x\n,y\n',
      "text in columns 'b': line 4, column 'b' is 'x'. Leave them out with "
      '--drop_columns=b.',
    ),
    (
      b'the name,"x,y",c\nA,1,2\nB,True,3\n',
      "text in columns 'the name', 'x,y': line 2, column 'the name' is 'A'. "
      """Leave them out with --drop_columns='the name,"x,y"'.""",
    ),
    (b'1,a\n2,b\n', "text in columns '2'"),
    (b'a,b\n1,True\n2,False\n', "text in columns 'b': line 2"),
    (
      b'a,b\n1,2\n\n3,NA\n,inf\n5,nan\n3\n',
      "line 4, column 'b' is missing or infinite. 4 of 5 rows have such "
      "values, in columns 'a', 'b'. Leave these rows out with --drop_missing",
    ),
  ],
)
def test_wrong_tables_are_named(content, message, tmp_path):
  path = tmp_path / 'table.csv'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(SystemExit) as error:
    tables.read_table(str(path), 'csv')
  assert str(error.value).startswith(f'--csv={path}')
  assert message in str(error.value)


def test_columns_to_leave_out_must_exist(tmp_path):
  with pytest.raises(SystemExit, match="no column 'x'; its columns are 'a'"):
    _read(tmp_path / 'table.csv', 'a,b\n1,2\n', drop_columns=['b', 'x'])


def test_columns_that_a_table_must_have(tmp_path):
  path = tmp_path / 'table.csv'
  frame = _read(path, 'b,a\n2,1\n', columns=['a', 'b'], drop_columns=['c'])
  np.testing.assert_array_equal(frame, [[1, 2]])
  with pytest.raises(
    SystemExit, match="missing: 'c'. Other columns: 'a', 'd'."
  ):
    _read(path, 'b,a,d\n2,1,3\n', columns=['b', 'c'])


def test_columns_without_a_density():
  rng = np.random.default_rng(0)
  a, b = 1e6 * rng.normal(size=50), 1e-3 * rng.normal(size=50) + 7
  check = lambda *columns: tables.check_columns(
    np.stack(columns, axis=1), 'abcde'[: len(columns)]
  )
  check(a, b, a + 1e9 * b + 1e4 * rng.normal(size=50))
  with pytest.raises(SystemExit, match="are constant: 'b', 'd'.*=b,d"):
    check(a, 0 * a + 3, b, 0 * a)
  with pytest.raises(SystemExit, match="others: 'c' of 'a'.*columns=c."):
    check(a, b, a)
  with pytest.raises(SystemExit, match="'c' of 'a', 'b'; 'e' of 'd'.*=c,e"):
    check(a, b, a - 1e9 * b, a**2, 5 - a**2)
  with pytest.raises(SystemExit, match='got 5 training rows of 2 columns'):
    check(a[:5], b[:5])
  check(a)


def test_conditions_may_depend_on_each_other_but_must_vary():
  x = np.arange(4.0)
  tables.check_columns(np.stack([x, x], 1), 'ab', independent=False)
  with pytest.raises(SystemExit, match="are constant: 'b'"):
    tables.check_columns(np.stack([x, 0 * x], 1), 'ab', independent=False)


def test_integer_columns():
  rows = np.array([[1.0, 0.5, -3.0], [2.0, 1.0, 1e9]])
  assert [*tables.integer_columns(rows)] == [True, False, True]


def test_columns_of_few_values():
  i = np.arange(100)
  rows = np.stack([i / 7, i % 5 / 7, i % 6 / 7], axis=1)
  assert [*tables.repeating_columns(rows)] == [False, True, False]


def test_warning_of_spikes(caplog):
  table = pd.DataFrame({'a': np.arange(40.0), 'b': np.arange(40) % 2 / 7})
  tables.warn_of_spikes(table, [])
  assert "Columns 'a' have integers only" in caplog.text
  assert 'Use --dequantize' in caplog.text
  assert "Columns 'b' have few different values" in caplog.text
  caplog.clear()
  tables.warn_of_spikes(table, ['a'])
  assert "'a'" not in caplog.text
  assert "'b'" in caplog.text
