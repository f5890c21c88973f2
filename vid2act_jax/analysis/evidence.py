"""All figures of a report from its runs, as plain data for results.json."""

import math
from collections.abc import Callable

import numpy as np

from vid2act_jax.analysis import (
  costs,
  curves,
  diagnosed,
  drawing,
  findings,
  grouping,
  published,
  scores,
  similarity,
)
from vid2act_jax.analysis.reading import Run

VERSION = 1


def gather(found: list[Run], problems: list[str], baseline: str) -> dict:
  """Compares runs and looks at each.

  Args:
    found: all runs that were read.
    problems: what was wrong before they were.
    baseline: the variant that the others are compared with.

  Returns:
    {'version', 'baseline', 'tasks' and 'overall' (of `scores`), 'published',
    'similarity', 'relation', 'pull', 'errors', 'predictions', 'vae',
    'guidance' and 'undiagnosed' (each {task: {label: ...}}), 'costs',
    'findings', 'runs', 'problems'}; 'tasks' is empty where no run can be
    compared.
  """
  groups, told = grouping.group(found)
  problems = [*problems, *told]
  tasks = {}
  groups = {
    task: {x: labels[x] for x in scores.in_order(labels, baseline)}
    for task, labels in groups.items()
  }
  for task, labels in groups.items():
    tasks[task], left_out = scores.of_task(task, labels, baseline)
    problems += left_out
  for run in found:
    problems += [f'{run.path}: {problem}' for problem in run.problems]
  if tasks and not any(x['baseline'] for x in tasks.values()):
    problems.append(
      f'no runs of the baseline {baseline}: nothing is compared with it'
      ' (--baseline names another)'
    )
  return {
    'version': VERSION,
    'baseline': baseline,
    'tasks': tasks,
    'overall': scores.over_tasks(tasks, baseline),
    'published': {
      task: published.matching(task, x['metric'], x['horizon'])
      for task, x in tasks.items()
    },
    'similarity': _each_group(groups, _similarity),
    'relation': _each_group(groups, _told(diagnosed.relation, 'sources')),
    'pull': _each_group(groups, _told(diagnosed.pull)),
    'errors': _each_group(groups, _errors),
    'predictions': _each_group(groups, _predictions),
    'vae': _each_group(groups, _told(diagnosed.vae, 'sources')),
    'guidance': _each_group(groups, _told(diagnosed.guidance)),
    'undiagnosed': _each_group(groups, _undiagnosed),
    'costs': _costs(groups, found),
    'findings': [
      {'run': str(run.path), 'name': finding.name, 'text': finding.text}
      for run in found
      for finding in findings.find(run)
    ],
    'runs': [_about(run) for run in found],
    'problems': list(dict.fromkeys(problems)),
  }


def _each_group(groups, ask: Callable[[list[Run]], object]) -> dict:
  """{task: {label: what is asked of its runs}}, without the empty ones."""
  out: dict[str, dict] = {}
  for task, labels in groups.items():
    for label, runs in labels.items():
      if answer := ask(runs):
        out.setdefault(task, {})[label] = answer
  return out


def _told(ask: Callable[[Run], dict | None], key: str = ''):
  """What to ask of a group: what its diagnosed runs tell, each by itself.

  Args:
    ask: what one run tells.
    key: where that stands in the run's row; '': it is the row.
  """

  def of_runs(runs):
    each = ((run, ask(run)) for run in runs)
    return [
      {'run': str(run.path), 'seed': run.seed} | ({key: told} if key else told)
      for run, told in each
      if told
    ]

  return of_runs


def _similarity(runs):
  """Weights of each run and their means at common steps."""
  each = [one for run in runs if (one := _weights(run))]
  if not each:
    return None
  # Runs of a label have the same sources, but for what a damaged one tells.
  names = [
    x for x in each[0]['weights'] if all(x in e['weights'] for e in each)
  ]
  paths = [(np.array(e['steps']), e) for e in each]
  grid = curves.common_grid([(steps, None) for steps, _ in paths])
  mean = {
    name: curves.align(
      [(steps, np.array(e['weights'][name])) for steps, e in paths], grid
    )
    .mean(0)
    .tolist()
    for name in names
  }
  if not names:
    return None
  return {'grid': grid.tolist(), 'mean': mean, 'runs': each}


def _weights(run):
  steps, by_source = similarity.weights(run)
  if not len(steps):
    return None
  entropy_steps, entropy, told = similarity.entropy(run)
  entropy_steps, entropy = drawing.thin(entropy_steps, entropy)
  return {
    'run': str(run.path),
    'seed': run.seed,
    'given': similarity.is_given(run),
    'steps': drawing.thin(steps, steps)[0].tolist(),
    'weights': {
      name: drawing.thin(steps, values)[1].tolist()
      for name, values in by_source.items()
    },
    'entropy_steps': entropy_steps.tolist(),
    'entropy': entropy.tolist(),
    'entropy_of_means': not told,
    'most': math.log(len(by_source)) or 1.0,  # One source: 0 of nothing.
    'end': similarity.at_the_end(run),
    'relevance': similarity.relevance(run),
  }


def _errors(runs):
  """The student's prediction error over the training, of runs that told it."""
  paths = [run.series('open_loop/error') for run in runs]
  each = [(run, *path) for run, path in zip(runs, paths, strict=True)]
  each = [(run, steps, values) for run, steps, values in each if len(steps)]
  if not each:
    return None
  paths = [(steps, values) for _, steps, values in each]
  grid = curves.common_grid(paths)
  if not len(grid):
    return None
  low, high = grid[0], grid[-1]
  middle = (low + high) / 2
  return {
    'grid': grid.tolist(),
    'mean': curves.align(paths, grid).mean(0).tolist(),
    # Means over the two halves of the steps that all runs have.
    'halves': [
      float(np.mean([curves.area(*path, *part) for path in paths]))
      for part in ((low, middle), (middle, high))
    ],
    'runs': [
      {
        'run': str(run.path),
        'seed': run.seed,
        'steps': drawing.thin(steps, values)[0].tolist(),
        'values': drawing.thin(steps, values)[1].tolist(),
      }
      for run, steps, values in each
    ],
  }


def _predictions(runs):
  """Mean errors of the runs that were diagnosed: {curve: [errors]}."""
  each = [told['curves'] for run in runs if (told := diagnosed.prediction(run))]
  names = dict.fromkeys(name for told in each for name in told)
  out = {}
  for name in names:
    errors = [told[name] for told in each if name in told]
    frames = min(map(len, errors))
    out[name] = np.mean([x[:frames] for x in errors], 0).tolist()
  return out


def _undiagnosed(runs):
  """{what is missing: why}, of a group's first run that lacks it."""
  asked = {
    'prediction': diagnosed.prediction,
    'relation': diagnosed.relation,
    'pull': diagnosed.pull,
    'vae': diagnosed.vae,
    'guidance': diagnosed.guidance,
  }
  return {
    name: diagnosed.missing(run, name)
    for name, ask in asked.items()
    for run in reversed(runs)
    if not ask(run)
  }


def _costs(groups, found):
  others = {run.path.resolve(): run for run in found}
  each = _each_group(
    groups, lambda runs: [costs.of_run(run, others) for run in runs]
  )
  return {
    task: {label: costs.of_group(told) for label, told in labels.items()}
    for task, labels in each.items()
  }


def _about(run):
  steps, _ = run.series('eval/return')
  return {
    'run': str(run.path),
    'task': run.task,
    'variant': run.variant,
    'seed': run.seed,
    'sources': list(run.sources),
    'commit': run.commit,
    'machine': run.machine,
    'env_steps': float(steps[-1]) if len(steps) else None,
    'evaluations': len(steps),
    'episodes': grouping.episodes_evaluated(run),
  }
