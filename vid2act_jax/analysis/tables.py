"""The report's tables as DataFrames, and how their values are written."""

import pandas as pd

from vid2act_jax.analysis.model_sections import AS_EXPECTED


def cells(table: pd.DataFrame, columns: str = '') -> list[tuple]:
  """Returns (heading, 'text' or 'number', formatted values) of the columns.

  Columns are 'name | name=heading | ...', or '' for all.
  """
  out = []
  for column in columns.split(' | ') if columns else table:
    name, _, heading = column.partition('=') if columns else (column, '', '')
    is_text = any(isinstance(x, str) for x in table[name])
    values = [_format(x) for x in table[name]]
    out.append((heading or name, 'text' if is_text else 'number', values))
  return out


def _format(value):
  if isinstance(value, str) or pd.isna(value):
    return value if isinstance(value, str) else '–'
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def number(value: float | None) -> str:
  """Returns three digits, or all of a large number's."""
  if value is None:
    return '–'
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def interval(score: dict) -> str:
  """Returns a mean with its interval: '512 [430, 590]'."""
  bounds = ', '.join(map(number, score['interval'] or ()))
  return number(score['iqm']) + (f' [{bounds}]' if bounds else '')


def probability(better: dict) -> str:
  """Returns the probability of improvement with its interval."""
  bounds = ', '.join(f'{x:.2f}' for x in better['interval'] or ())
  bounds = f'[{bounds}]' if bounds else '(no interval)'
  return f'{better["probability"]:.2f} {bounds}'


def rows(part: dict | list) -> pd.DataFrame:
  """Returns a row per dict of a list, or of {task: {label: dict or list}}.

  In the latter, one per source of a dict with 'sources'.
  """
  if isinstance(part, list):
    return pd.DataFrame(part)
  out = []
  for task, labels in part.items():
    for label, values in labels.items():
      for value in values if isinstance(values, list) else [values]:
        row, sources = {'task': task, 'kind': label, **value}, [{}]
        if isinstance(value.get('sources'), dict):
          named = row.pop('sources').items()
          sources = [{'source': name, **entry} for name, entry in named]
        out += [row | source for source in sources]
  return pd.json_normalize(out, max_level=1)


def mean_by_source(table: pd.DataFrame) -> pd.DataFrame:
  """Returns the means of the runs of a label, with their number."""
  keys = ['unexplained', 'kl', 'active', 'latent', 'spread', 'coverage']
  table = table.astype(dict.fromkeys(keys, float))  # None: not known.
  groups = table.groupby(['task', 'kind', 'source'], sort=False)
  means = groups[keys].mean()
  return means.assign(runs=groups.size()).reset_index()


def scores(result: dict) -> pd.DataFrame:
  """Returns each label's scores, and their comparison with the baseline."""
  out = []
  for label, x in result['labels'].items():
    better, seeds = x['improvement'] or {}, ', '.join(map(str, x['seeds']))
    if None in x['seeds']:
      seeds = f'{len(x["seeds"])} (unknown)'
    versus = 'the baseline' if label == result['baseline'] else '–'
    out.append({
      'kind': label,
      'seeds': seeds if len(x['seeds']) > 1 else '1 (one: no interval)',
      'final score': interval(x['final']),
      'area': interval(x['area']),
      'random': number(x.get('random')),
      'better than baseline': probability(better) if better else versus,
      'p-value': number(better.get('chance')),
      'verdict': better.get('verdict', '–'),
    })  # fmt: skip
  return pd.DataFrame(out)


def last_points(curves: list[dict]) -> pd.DataFrame:
  """Returns published curves, of their values the last one."""
  last = lambda x: x[-1] if isinstance(x, list) else x
  return pd.DataFrame(curves).map(last)


def final_weights(labels: dict) -> pd.DataFrame:
  """Returns means over the seeds; those of single ones are in results.json."""
  sources = list(dict.fromkeys(x for y in labels.values() for x in y['mean']))
  out = []
  for label, x in labels.items():
    runs = pd.DataFrame(x['runs'])
    ends = pd.DataFrame(list(runs.end)).reindex(columns=sources).mean()
    entropy = (runs.entropy.str[-1] / runs.most).mean()
    fixed = 'set by the variant' if runs.given[0] else ''
    out.append([label, len(runs), *ends, entropy, fixed])
  columns = ['kind', 'runs', *sources, 'entropy / ln N', '']
  return pd.DataFrame(out, columns=columns)


def halves(labels: dict) -> pd.DataFrame:
  """Returns mean prediction errors in both halves of the training."""
  columns = ['kind', 'runs', 'mean error, first half', 'second half']
  out = [(label, len(x['runs']), *x['halves']) for label, x in labels.items()]
  return pd.DataFrame(out, columns=columns)


def horizons(labels: dict) -> pd.DataFrame:
  """Returns each model's error of the first and last predicted frame."""
  columns = ['kind', 'model', 'error of the first', 'of the last', 'mean']
  out = [
    (label, name, errors[0], errors[-1], sum(errors) / len(errors))
    for label, models in labels.items()
    for name, errors in models.items()
  ]
  return pd.DataFrame(out, columns=columns)


def relevance(results: dict) -> pd.DataFrame:
  """Returns what is known in advance about weights, and what was seen."""
  return pd.DataFrame(
    {'task': task, 'run': f'{label}, seed {one["seed"]}', **known}
    for task, labels in results['similarity'].items()
    for label, x in labels.items()
    for one in x['runs']
    for known in one['relevance']
  )


def relevance_counts(results: dict) -> list[tuple[str, int, int]]:
  """Returns (what sources are, how often as expected, out of how many)."""
  table = relevance(results)
  if table.empty:
    return []
  agrees = (table.verdict == AS_EXPECTED).groupby(table.what, sort=False)
  return list(agrees.agg(['sum', 'size']).itertuples())


def missing(undiagnosed: dict, part: str) -> list[tuple[str, str]]:
  """Returns (why a part of the diagnosis is missing, for which labels)."""
  found: dict[str, dict[str, list[str]]] = {}
  for task, labels in undiagnosed.items():
    for label, reasons in labels.items():
      if part in reasons:
        found.setdefault(reasons[part], {}).setdefault(task, []).append(label)
  return [
    (why, '; '.join(f'{task}: {", ".join(x)}' for task, x in tasks.items()))
    for why, tasks in found.items()
  ]
