"""Checks of a report's results: whether the parts of transfer do their work.

They read the data of results.json alone, so that those of an earlier report can
be checked again. Runs of one label are judged together.
"""

from collections.abc import Iterator

import numpy as np

from vid2act_jax.analysis import model_sections as sections
from vid2act_jax.analysis import tables

_NEGLIGIBLE = 0.01  # Distillation, of the gradient of the other losses.
_WORSE = 0.1  # Relative difference of two errors that is not noise.
_UNCOVERED = 0.5  # Of the variance, or of the actions.
_BASELINE = 'dreamerv2'  # The variant without transfer.

NEGLIGIBLE = 'distillation is negligible'
CONTRADICTION = 'weights contradict the teacher'
NARROW = 'replayed actions do not cover the recorded ones'
BELOW = 'transfer is below the baseline'
NO_EFFECT = 'no measurable effect of transfer'
HINTS = {
  NEGLIGIBLE: 'config.learner.transfer.distance=sum,'
  ' config.learner.transfer.direction=to_teacher, or a larger'
  ' config.learner.scales.distillation',
  CONTRADICTION: 'config.learner.transfer.weights=evidence',
  NARROW: 'another config.learner.transfer.vae_kl, or a larger'
  ' config.learner.scales.vae',
  BELOW: 'judge the sources (python -m vid2act_jax.analysis teacher RUN); then'
  ' config.learner.transfer.weights=evidence,'
  ' config.learner.transfer.direction=to_teacher or'
  ' config.learner.transfer.guidance=feature+prior+jump_start',
  NO_EFFECT: 'more seeds; judge the sources (python -m vid2act_jax.analysis'
  ' teacher RUN); then config.learner.transfer.distance=sum,'
  ' config.learner.transfer.direction=to_teacher or'
  ' config.learner.transfer.guidance=feature+prior+jump_start',
}

_Rows = Iterator[tuple[str, str, str]]  # Runs, name of the check, text.


def find(results: dict) -> list[dict[str, str]]:
  """Returns rows {run (a task and label), name, text, hint}.

  `results` are those of `aggregate.gather`.
  """
  checks = _check_distillation, _check_weights, _check_actions, _check_scores
  return [
    {'run': run, 'name': name, 'text': text, 'hint': HINTS[name]}
    for check in checks
    for run, name, text in check(results)
  ]


def _labels(part: dict) -> Iterator[tuple[str, str, str, list | dict]]:
  """Yields task, label, 'label, task' and value of {task: {label: value}}."""
  for task, labels in part.items():
    for label, value in labels.items():
      yield task, label, f'{label}, {task}', value


def _check_distillation(results) -> _Rows:
  """Checks the gradient of distillation, where the variant has it."""
  for _, _, who, runs in _labels(results['pull']):
    shares = [run['share'] for run in runs if run['distillation'] > 0]
    low = [share for share in shares if share < _NEGLIGIBLE]
    if low:
      text = (
        f'distillation is {_range(low, "{:.2%}")} of the gradient of the'
        f" student's other losses, below {_NEGLIGIBLE:.0%}, in {len(low)} of"
        f' {len(shares)} runs: it hardly shapes the student'
      )
      yield who, NEGLIGIBLE, text


def _check_weights(results) -> _Rows:
  """Checks whether the heaviest source predicts the target's frames best."""
  for task, label, who, value in _labels(results['similarity']):
    ends = [run['end'] for run in value['runs'] if not run['given']]
    errors, what = _teacher_errors(results, task, label)
    names = [name for name in errors if all(name in end for end in ends)]
    if not ends or len(names) < 2:
      continue
    best = min(names, key=errors.get)
    mean = {name: float(np.mean([end[name] for end in ends])) for name in names}
    top = max(mean, key=mean.get)
    against = sum(max(names, key=end.get) != best for end in ends)
    if errors[top] > (1 + _WORSE) * errors[best]:
      yield (
        who,
        CONTRADICTION,
        f'{top} has the largest weight ({mean[top]:.2f}; {best}'
        f" {mean[best]:.2f}), but its label predicts the target's frames worse:"
        f" the teacher's {what} is {errors[top]:.3g}, that of {best}"
        f' {errors[best]:.3g} (a difference above {_WORSE:.0%}); the largest'
        f' weight is not with {best} in {against} of {len(ends)} runs',
      )


def _teacher_errors(results, task, label):
  """Returns the teacher's error on the target by source, and what it is."""
  prefix = 'teacher '
  curves = results['predictions'].get(task, {}).get(label, {})
  errors = {
    name.removeprefix(prefix): float(np.mean(curve))
    for name, curve in curves.items()
    if name.startswith(prefix)
  }
  if errors:
    return errors, 'mean squared error'
  # A public teacher has no decoder, and older diagnoses have no KL.
  runs = results.get('teacher_kl', {}).get(task, {}).get(label, ())
  each: dict[str, list] = {}
  for run in runs:
    for source, entry in run['sources'].items():
      each.setdefault(source, []).append(entry['kl'])
  means = {source: float(np.mean(values)) for source, values in each.items()}
  return means, 'KL of posterior to prior'


def _check_actions(results) -> _Rows:
  """Checks whether the action VAE's prior gives all that was recorded."""
  for _, _, who, runs in _labels(results['vae']):
    texts = []
    for source in dict.fromkeys(
      name for run in runs for name in run['sources']
    ):
      parts = [x['sources'][source] for x in runs if source in x['sources']]
      spread = np.mean([sections.spread(part) for part in parts])
      known = [part.get('coverage') for part in parts]
      known = [x for x in known if x is not None]  # Older diagnoses have none.
      covered = np.mean(known) if known else 1.0
      if min(spread, covered) < _UNCOVERED:
        text = f'{source}: {spread:.0%} of the variance'
        more = f', {covered:.0%} of the actions have a replayed one nearby'
        texts.append(text + (more if known else ''))
    if texts:
      text = "of the recorded actions, those replayed from the VAE's prior have"
      text = f'{text}: {"; ".join(texts)} (below {_UNCOVERED:.0%}; mean of'
      yield who, NARROW, f'{text} {len(runs)} runs)'


def _check_scores(results) -> _Rows:
  """Compares labels with transfer to the baseline without it."""
  scored = dict(results['tasks'])
  if results['overall']:
    number = len(results['overall']['tasks'])
    scored[f'mean over {number} tasks'] = results['overall']
  for task, result in scored.items():
    base, equal = result['baseline'], []
    if not base or base.split(',')[0] != _BASELINE:
      continue
    theirs = tables.interval(result['labels'][base]['final'])
    for label, scores in result['labels'].items():
      better = scores['improvement']
      if not better or not better['interval']:
        continue  # The baseline, or a single seed.
      if label.split(',')[0] == _BASELINE or better['interval'][0] > 0.5:
        continue
      chance = tables.probability(better)
      if better['interval'][1] < 0.5:
        ours = tables.interval(scores['final'])
        text = (
          f'final score {ours}, {base} {theirs}: probability of improvement'
        )
        text = f'{text} {chance}, all of it below 0.5'
        yield f'{label}, {task}', BELOW, text
      else:
        equal.append(f'{label} {chance}')
    if equal:
      text = f'not distinguishable from {base}: the interval of the probability'
      text = f'{text} of improvement includes 0.5 for {"; ".join(equal)}'
      yield task, NO_EFFECT, text


def _range(values, form):
  """Returns 'lowest to highest', or the value of both."""
  ends = dict.fromkeys(form.format(x) for x in (min(values), max(values)))
  return ' to '.join(ends)
