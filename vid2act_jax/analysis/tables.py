"""The report's tables as DataFrames: filters of its template."""

import pandas as pd

from vid2act_jax.analysis.model_sections import AS_EXPECTED


def cells(table: pd.DataFrame, columns: str = '') -> list[tuple]:
  """Returns (heading, 'text' or 'number', formatted values) of the columns.

  Args:
    table: any.
    columns: 'name | name=heading | ...'; '': all.
  """
  if columns:
    pairs = [column.partition('=') for column in columns.split(' | ')]
    table = table[[name for name, *_ in pairs]]
    table.columns = [heading or name for name, _, heading in pairs]
  return [
    (
      name,
      'text' if any(isinstance(x, str) for x in values) else 'number',
      list(map(_format, values)),
    )
    for name, values in table.items()
  ]


def _format(value):
  if isinstance(value, str):
    return value
  if pd.isna(value):
    return '–'
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'


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
        row = {'task': task, 'kind': label, **value}
        by_source = value.get('sources')
        by_source = by_source if isinstance(by_source, dict) else {}
        out += [{**row, 'source': x, **y} for x, y in by_source.items()] or [
          row
        ]
  return pd.json_normalize(out, max_level=1)


def mean_by_source(table: pd.DataFrame) -> pd.DataFrame:
  """Returns the means of the runs of a label, with their number."""
  groups = table.groupby(['task', 'kind', 'source'], sort=False)
  columns = ['unexplained', 'kl', 'active', 'latent']
  means = groups[columns].mean().assign(runs=groups.size())
  return means.reset_index()


def scores(result: dict) -> pd.DataFrame:
  """Returns each label's scores, and their comparison with the baseline."""
  out = []
  for label, x in result['labels'].items():
    better, seeds = x['improvement'], ', '.join(map(str, x['seeds']))
    if None in x['seeds']:
      seeds = f'{len(x["seeds"])} (unknown)'
    elif len(x['seeds']) == 1:
      seeds = '1 (one: no interval)'
    is_base = label == result['baseline']
    row = {'kind': label, 'seeds': seeds, 'final score': interval(x['final'])}
    row |= {'area': interval(x['area']), 'random': number(x.get('random'))}
    row['better than baseline'] = 'the baseline' if is_base else '–'
    if better:
      row['better than baseline'] = probability(better)
    row['p-value'] = number(better and better['chance'])
    row['verdict'] = better['verdict'] if better else '–'
    out.append(row)
  return pd.DataFrame(out)


def number(value: float | None) -> str:
  """Returns three digits, or all of a large number's."""
  if value is None:
    return '–'
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def interval(score: dict) -> str:
  """Returns a mean with its interval: '512 [430, 590]'."""
  bounds = score['interval'] and '[{}, {}]'.format(
    *map(number, score['interval'])
  )
  return ' '.join(filter(None, [number(score['iqm']), bounds]))


def probability(better: dict) -> str:
  """Returns the probability of improvement with its interval."""
  bounds = better['interval'] and '[{:.2f}, {:.2f}]'.format(*better['interval'])
  return f'{better["probability"]:.2f} {bounds or "(no interval)"}'


def last_points(curves: list[dict]) -> pd.DataFrame:
  """Returns published curves, of their values the last one."""
  ends = {
    key: [x[key][-1] for x in curves] for key in ('env_steps', 'mean', 'std')
  }
  return pd.DataFrame(curves).assign(**ends)


def final_weights(labels: dict) -> pd.DataFrame:
  """Returns means over the seeds; those of single ones are in results.json."""
  out = []
  for label, x in labels.items():
    ends = pd.DataFrame([one['end'] for one in x['runs']]).mean()
    entropies = [
      y['entropy'][-1] / y['most'] for y in x['runs'] if y['entropy']
    ]
    fixed = 'set by the variant' if x['runs'][0]['given'] else ''
    out.append(
      (label, len(x['runs']), ends, pd.Series(entropies).mean(), fixed)
    )
  first, count, ends, entropy, last = zip(*out, strict=True)
  table = pd.DataFrame(ends).reset_index(drop=True)
  table.insert(0, 'kind', first, allow_duplicates=True)
  table.insert(1, 'runs', count, allow_duplicates=True)
  table.insert(
    len(table.columns), 'entropy / ln N', entropy, allow_duplicates=True
  )
  table.insert(len(table.columns), '', last, allow_duplicates=True)
  return table


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
