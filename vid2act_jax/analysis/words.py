"""What the figures of a report show, and do not show, in sentences.

Every claim is made from an interval and a permutation test; where these do
not bear one, the words say that it is undecided.
"""

from collections.abc import Iterable

from vid2act_jax.analysis import similarity
from vid2act_jax.analysis.scores import SURE

_FEW = 5  # Seeds, below which an interval says little.
_MOST_TASKS = 3  # That the first paragraphs speak of one by one.


def lead(results: dict) -> list[str]:
  """The first paragraphs of the page."""
  tasks = results['tasks']
  seeds = [
    len(about['seeds'])
    for x in tasks.values()
    for about in x['labels'].values()
  ]
  labels = {label for x in tasks.values() for label in x['labels']}
  horizon = max(x['horizon'] for x in tasks.values())
  first = (
    f'{count(sum(seeds), "run")} of {count(len(tasks), "task")} and'
    f' {count(len(labels), "kind")}, with {_range(seeds)} of a kind on a task,'
    f' compared up to {horizon:,.0f} environment steps.'
  )
  scopes = []
  if results['overall']:
    many = len(results['overall']['tasks'])
    scopes.append((f'Over {many} tasks', None))
  for task in list(tasks)[: _MOST_TASKS if not scopes else 0]:
    scopes.append((f'On {task}', task))
  texts = [first]
  for name, task in scopes:
    told = results['overall'] if task is None else tasks[task]
    unit = ' (1 is perfect)' if task is None else f' ({told["metric"]})'
    said = f'{name}, {_standing(told, unit)} {comparisons(told)}'
    texts.append(said.strip())
  if not results['overall'] and len(tasks) > _MOST_TASKS:
    texts.append('The other tasks are below, each by itself.')
  if known := relevance(results):
    texts.append(f'Where it is known what the weights should be: {known}')
  texts.append(_limits(results, seeds))
  return texts


def _standing(told, unit):
  """The best mean and the baseline's, with their intervals."""
  labels = told['labels']
  best = max(labels, key=lambda label: labels[label]['final']['iqm'])
  names = dict.fromkeys([best, told['baseline'] or best])
  ends = ' and '.join(
    f'{summary(labels[name]["final"])} for {name}' for name in names
  )
  highest = f'; the highest is that of {best}' if len(labels) > 1 else ''
  return f'the final score was {ends}{unit}{highest}.'


def comparisons(told: dict) -> str:
  """Which labels differ from the baseline by more than chance explains."""
  base = told['baseline']
  by_verdict: dict[str, list[str]] = {}
  for label, about in told['labels'].items():
    better = about['improvement']
    if better:
      by_verdict.setdefault(better['verdict'], []).append(
        f'{label} ({_probability(better)})'
      )
  if not by_verdict:
    return ''
  number = sum(map(len, by_verdict.values()))
  texts = [
    f'{verdict.capitalize()} than {base}, by more than chance explains:'
    f' {", ".join(by_verdict[verdict])}.'
    for verdict in ('better', 'worse')
    if verdict in by_verdict
  ]
  least = [
    x['improvement']['least_chance']
    for x in told['labels'].values()
    if x['improvement']
  ]
  if min(least) > SURE:
    return (
      f'Too few runs to tell any difference to {base} from chance, which parts'
      f' so few as clearly as can be in {min(least):.0%} of cases:'
      f' {", ".join(by_verdict["undecided"])}.'
    )
  if 'undecided' in by_verdict:
    texts.append(
      f'Undecided against {base}: {", ".join(by_verdict["undecided"])}.'
    )
  if number > 1 and len(texts) > ('undecided' in by_verdict):
    texts.append(
      f'Of {number} comparisons, about {number * SURE:.1g} would come out as'
      ' decided if there were no difference at all.'
    )
  return ' '.join(texts)


def _probability(better):
  text = f'probability {better["probability"]:.2f}'
  if better['interval']:
    text += ' [{:.2f}, {:.2f}]'.format(*better['interval'])
  else:
    return f'{text}, one seed of each: no interval'
  return f'{text}, chance {better["chance"]:.2g}'


def relevance(results: dict) -> str:
  """How often weights were as is known that they should be; '' for never."""
  verdicts: dict[str, list[bool]] = {}
  for labels in results['similarity'].values():
    for about in labels.values():
      for row in (row for one in about['runs'] for row in one['relevance']):
        agrees = row['verdict'] == similarity.AGREES
        verdicts.setdefault(row['what'], []).append(agrees)
  told = (
    f'{what}, as expected in {sum(agree)} of {count(len(agree), "case")}'
    for what, agree in verdicts.items()
  )
  return '; '.join(told) + '.' if verdicts else ''


def _limits(results, seeds):
  """What the runs do not show."""
  texts = []
  if max(seeds) == 1:
    texts.append(
      'With one seed of each there are no intervals at all: a difference may be'
      ' the luck of a seed.'
    )
  elif min(seeds) < _FEW:
    texts.append(
      f'With {_range(seeds)} intervals are wide, and still too'
      ' narrow: of three scores, a bootstrap interval holds the true mean in'
      ' about three of four cases, not in 95%.'
    )
  if any(results['published'].values()):
    texts.append(
      'Published curves were made under other protocols (they stand beside'
      ' ours for orientation, not as a comparison).'
    )
  if results['findings']:
    found = count(len(results['findings']), 'finding')
    texts.append(
      f'The checks of single runs have {found}, below: look there before'
      ' believing a mean.'
    )
  texts.append(
    'Nothing here tells of other tasks, of longer training, or of other'
    ' settings than these runs had.'
  )
  return ' '.join(texts)


def summary(told: dict) -> str:
  """A mean with its interval: '512 [430, 590]'."""
  text = number(told['iqm'])
  if told['interval']:
    low, high = map(number, told['interval'])
    return f'{text} [{low}, {high}]'
  return text


def number(value: float | None) -> str:
  """Three digits, or all of a large number's."""
  if value is None:
    return '–'
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def count(many: int, noun: str) -> str:
  """'3 runs', '1 run'."""
  return f'{many} {noun}' if many == 1 else f'{many} {noun}s'


def _range(numbers: Iterable[int]) -> str:
  low, high = min(numbers), max(numbers)
  if low == high:
    return count(low, 'seed')
  return f'{low} to {high} seeds'
