"""Reads tables of numbers, and says what a density cannot be estimated of.

Needs pandas, which `pip install 'tfp_realnvp[examples]'` installs.
"""

import bz2
from collections.abc import Iterable
from collections.abc import Sequence
import csv
import gzip
import io
import pathlib
import shlex

from absl import logging
import numpy as np
import pandas as pd

__all__ = [
  'SEPARATORS',
  'check_columns',
  'check_numbers',
  'drop',
  'integer_columns',
  'read_table',
  'repeating_columns',
  'warn_of_spikes',
]

# In this order: the first one that divides the first line is the separator.
SEPARATORS = {
  'tab': '\t',
  'semicolon': ';',
  'comma': ',',
  'whitespace': r'\s+',
}


def read_table(
  path: str,
  flag: str,
  separator: str | None = None,
  drop_columns: Sequence[str] = (),
  drop_missing: bool = False,
  columns: Sequence[str] | None = None,
) -> pd.DataFrame:
  """Reads a table of numbers from a text file.

  The first line is a header if all its fields are text, or one that is a number
  or missing in the second line. Without a header the names of the columns are
  '1', '2' and so on.

  Args:
    path: UTF-8 text, compressed if its name ends in .gz or .bz2.
    flag: Flag of the program that `path` comes from, for errors.
    separator: Key of `SEPARATORS`. By default the first line decides.
    drop_columns: Names of columns to leave out.
    drop_missing: Whether to leave out rows with missing or infinite values,
      which are an error otherwise.
    columns: Names of the columns that the table must have, in any order. Then
      `drop_columns` may have names that the table does not have.

  Returns:
    float64 `pd.DataFrame` of finite numbers, with `columns` in their order. Its
    index, 'line', has the number of each row's line in the file.

  Raises:
    SystemExit: If there is no such table. The message names the flag, the file
      and, as far as they are known, lines, columns and a remedy.
  """
  source = f'--{flag}={path}'
  frame = _read(path, source, separator)
  if columns is None:
    frame = drop(frame, drop_columns, source)
  else:
    frame = frame.drop(columns=list(drop_columns), errors='ignore')
    lacking = [name for name in columns if name not in frame.columns]
    others = [name for name in frame.columns if name not in columns]
    if lacking or others:
      raise SystemExit(
        f'{source} must have the columns {_quoted(columns)}. Columns that are '
        f'missing: {_quoted(lacking)}. Other columns: {_quoted(others)}.'
      )
    frame = frame[list(columns)]
  return check_numbers(frame, source, drop_missing)


def drop(
  frame: pd.DataFrame, names: Sequence[str], source: str
) -> pd.DataFrame:
  """Returns a table without the columns that --drop_columns names.

  Args:
    frame: Table.
    names: Value of --drop_columns.
    source: Where the table comes from, for errors.

  Raises:
    SystemExit: If the table does not have one of the columns.
  """
  unknown = [name for name in names if name not in frame.columns]
  if unknown:
    raise SystemExit(
      f'--drop_columns: {source} has no column {_quoted(unknown)}; its columns '
      f'are {_quoted(frame.columns)}.'
    )
  return frame.drop(columns=list(names))


def check_numbers(
  frame: pd.DataFrame, source: str, drop_missing: bool
) -> pd.DataFrame:
  """Returns a table as finite float64 numbers.

  Args:
    frame: Table. Its index has a name, such as 'line'.
    source: Where the table comes from, for errors.
    drop_missing: See `read_table`.

  Raises:
    SystemExit: If there is text, a value is missing or infinite, or no row is
      left.
  """
  if frame.empty:
    raise SystemExit(f'{source} has no rows, or no columns are left.')
  where = frame.index.name
  texts = _text_columns(frame)
  if texts:
    column = frame[texts[0]]
    numbers = pd.to_numeric(column.astype(str), errors='coerce')
    line = (numbers.isna() & column.notna()).idxmax()
    raise SystemExit(
      f'{source} has text in columns {_quoted(texts)}: {where} {line}, column '
      f'{texts[0]!r} is {str(column[line])!r}. {_drop_advice(texts)}'
    )
  frame = frame.astype(np.float64)
  missing = ~np.isfinite(frame)
  has_missing = missing.any(axis=1)
  if has_missing.any() and not drop_missing:
    line = has_missing.idxmax()
    raise SystemExit(
      f'{source}: {where} {line}, column {missing.loc[line].idxmax()!r} is '
      f'missing or infinite. {has_missing.sum()} of {len(frame)} rows have '
      f'such values, in columns {_quoted(frame.columns[missing.any()])}. Leave '
      'these rows out with --drop_missing, or columns with --drop_columns.'
    )
  if has_missing.any():
    logging.warning(
      'Dropped %d of %d rows of %s, which have missing or infinite values.',
      has_missing.sum(),
      len(frame),
      source,
    )
  if has_missing.all():
    raise SystemExit(f'{source} has no row without missing values.')
  return frame[~has_missing]


def _read(path: str, source: str, separator: str | None) -> pd.DataFrame:
  """Reads a file with a header or without, and numbers of lines as index."""
  text = _read_text(path, source)
  numbered = [
    (number, line)
    for number, line in enumerate(text.split('\n'), start=1)
    if line.strip()
  ]
  if not numbered:
    raise SystemExit(f'{source} is empty.')
  candidates = [SEPARATORS[separator]] if separator else SEPARATORS.values()
  try:
    for candidate in candidates:
      options = {
        'sep': candidate,
        'skipinitialspace': True,
        'na_values': ['?'],
        'low_memory': False,
      }
      first, *second = [
        pd.read_csv(io.StringIO(line), header=None, **options)
        for _, line in numbered[:2]
      ]
      if first.shape[1] > 1:
        break
    texts = _text_columns(first)
    has_header = len(texts) == first.shape[1] or bool(
      set(texts).difference(*map(_text_columns, second))
    )
    frame = pd.read_csv(
      io.StringIO(text), header=0 if has_header else None, **options
    )
  except ValueError as error:
    message = ' '.join(str(error).split())
    raise SystemExit(f'{source} is not a table: {message}') from error
  if not isinstance(frame.index, pd.RangeIndex):
    raise SystemExit(f'{source} has rows with more fields than its header.')
  lines = [number for number, _ in numbered[has_header:]]
  if len(lines) != len(frame):  # A field in quotes has several lines.
    lines = range(1 + has_header, 1 + has_header + len(frame))
  frame.index = pd.Index(lines, name='line')
  names = frame.columns if has_header else frame.columns + 1
  frame.columns = [str(name).strip() for name in names]
  return frame


def _text_columns(frame: pd.DataFrame) -> list:
  return list(frame.select_dtypes(exclude='number').columns)


def _read_text(path: str, source: str) -> str:
  """Reads a text file, which may be compressed."""
  openers = {'.gz': gzip.open, '.bz2': bz2.open}
  opener = openers.get(pathlib.Path(path).suffix, open)
  try:
    with opener(path, 'rt', encoding='utf-8-sig') as file:
      text = file.read()
  except (OSError, EOFError) as error:
    raise SystemExit(f'{source} cannot be read: {error}') from error
  except UnicodeDecodeError as error:
    raise SystemExit(f'{source} is not a text file in UTF-8.') from error
  if '\0' in text:
    raise SystemExit(f'{source} is not a text file.')
  return text.removeprefix('#')  # `numpy.savetxt` writes it before a header.


def check_columns(
  rows: np.ndarray, names: Sequence[str], independent: bool = True
) -> None:
  """Checks that columns vary and, unless they are conditions, have a density.

  Args:
    rows: float `[N, D]`.
    names: Names of the columns.
    independent: Whether linear functions of other columns are an error.

  Raises:
    SystemExit: If there are too few rows, or columns are constant or linear
      functions of others, up to a relative error of 3e-5. The message names
      them.
  """
  constant = [n for n, span in zip(names, np.ptp(rows, axis=0)) if span == 0]
  if constant:
    raise SystemExit(
      f'Columns that are constant: {_quoted(constant)}. '
      f'{_drop_advice(constant)}'
    )
  if not independent:
    return
  if len(rows) < max(6, rows.shape[1] + 1):
    raise SystemExit(
      'There must be at least 6 training rows, and more rows than columns; got '
      f'{len(rows)} training rows of {rows.shape[1]} columns.'
    )
  standardized = (rows - rows.mean(0)) / rows.std(0)
  # The columns of R have the same inner products as those of the rows.
  r = np.linalg.qr(standardized / np.sqrt(len(rows)), mode='r')
  basis, dependent = [], {}
  for i, name in enumerate(names):
    weights = np.linalg.lstsq(r[:, basis], r[:, i])[0]
    if np.linalg.norm(r[:, i] - r[:, basis] @ weights) < 3e-5:
      dependent[name] = [
        names[j] for j, w in zip(basis, weights) if abs(w) > 1e-4
      ]
    else:
      basis.append(i)
  if dependent:
    functions = '; '.join(
      f'{name!r} of {_quoted(others)}' for name, others in dependent.items()
    )
    raise SystemExit(
      f'Columns that are linear functions of others: {functions}. They have no '
      f'density. {_drop_advice(dependent)}'
    )


def integer_columns(rows: np.ndarray) -> np.ndarray:
  """Returns which columns have integers only: bool `[D]`."""
  return np.all(rows == np.floor(rows), axis=0)


def repeating_columns(rows: np.ndarray) -> np.ndarray:
  """Returns which columns have few values for their rows: bool `[D]`.

  Each value stands in 20 rows on average, or in more.
  """
  count = np.array([len(np.unique(column)) for column in rows.T])
  return 20 * count <= len(rows)


def warn_of_spikes(table: pd.DataFrame, dequantized: Iterable[str]) -> None:
  """Warns of columns on which densities can grow without bound.

  Args:
    table: Rows of numbers.
    dequantized: Names of the columns that are dequantized.
  """
  is_integer = integer_columns(table.to_numpy())
  is_repeating = repeating_columns(table.to_numpy()) & ~is_integer
  dequantize = 'Use --dequantize to add uniform noise on [0, 1), or leave'
  for columns, what, remedy in (
    (table.columns[is_integer], 'integers only', dequantize),
    (table.columns[is_repeating], 'few different values', 'Leave'),
  ):
    columns = columns.difference(dequantized, sort=False)
    if len(columns):
      logging.warning(
        'Columns %s have %s. Densities can grow without bound there, so '
        'log-likelihoods say little. %s these columns out with --drop_columns.',
        _quoted(columns),
        what,
        remedy,
      )


def _quoted(names: Iterable[str]) -> str:
  return ', '.join(map(repr, names)) or 'none'


def _drop_advice(names: Iterable[str]) -> str:
  """Returns a sentence with the flag that leaves columns out."""
  line = io.StringIO()
  csv.writer(line, lineterminator='').writerow(names)
  return f'Leave them out with --drop_columns={shlex.quote(line.getvalue())}.'
