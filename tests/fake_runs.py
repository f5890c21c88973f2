"""Fake run folders, in the form of finished runs."""

import json
import pathlib

import numpy as np

SOURCES = ('dmc_walker_walk', 'dmc_cheetah_run', 'dmc_hopper_stand')


def config(task='dmc_quadruped_walk', variant='vid2act', seed=0, **changes):
  """The parts of a config that a report looks at, as config.json has them."""
  made = {
    'name': 'fake',
    'seed': seed,
    'task': task,
    'sources': list(SOURCES),
    'teacher_from': '',
    'variant': variant,
    'env': {'time_limit': 1000},
    'learner': {'scales': {'kl': 1.0}},
    'evaluate': {'episodes': 10},
    'finetune': {'env_steps': 100_000, 'log_every': 100},
  }
  return {**made, **changes}


def rows(
  level=600.0,
  weights=(0.6, 0.3, 0.1),
  seed=0,
  env_steps=100_000,
  sources=SOURCES,
  evaluations=20,
  success=None,
  **train,
):
  """Rows of metrics of a run that learns up to a level.

  Args:
    level: its return at the end.
    weights: of the sources at the end; they begin alike. None: no transfer.
    seed: of the noise.
    env_steps: its length.
    sources: names of the sources.
    evaluations: how many.
    success: rate at the end; None: the task has none.
    **train: logged losses, constants or functions of the share done.
  """
  rng = np.random.default_rng(seed)
  out = [
    {'stage': 'pretrain', 'step': 500, 'time': 250.0, 'train/skipped': 0.0},
    {'stage': 'finetune', 'step': 5000, 'time': 9.0, 'random/return': 40.0},
  ]
  for step in np.linspace(5000, env_steps, evaluations):
    done = step / env_steps
    row = {'stage': 'finetune', 'step': int(step), 'time': step / 100}
    values = {'train/skipped': 0.0, 'train/kl': 8 + rng.normal()}
    for key, value in train.items():
      values[f'train/{key}'] = value(done) if callable(value) else value
    if weights is not None:
      mixed = np.full(len(sources), 1 / len(sources)) * (1 - done)
      mixed = mixed + np.array(weights) * done
      values |= {
        f'similarity/{name}': w for name, w in zip(sources, mixed, strict=True)
      }
      safe = np.clip(mixed, 1e-9, 1)
      values['train/similarity_entropy'] = float(-(safe * np.log(safe)).sum())
    error = 0.02 / (1 + 5 * done)
    out.append({**row, **values, 'open_loop/error': error})
    score = 50 + (level - 50) * (1 - np.exp(-4 * done)) + rng.normal() * 20
    values = {'eval/return': score, 'eval/return_std': 10, 'eval/episodes': 10}
    if success is not None:
      values['eval/success'] = success * done
    out.append({**row, **values})
  return out


def diagnosis(sources=SOURCES, **changes):
  """A diagnosis as analysis.diagnose writes it."""
  edges = np.linspace(-1, 1, 21)
  density = np.exp(-((edges[:-1] + 0.05) ** 2) * 8)
  table = [(density * 0.9).tolist(), density.tolist()]
  frames = np.arange(1, 21)
  made = {
    'version': 1,
    'env_steps': 100_000,
    'updates': 1900,
    'prediction': {
      'context': 5,
      'student': (0.004 + 0.0006 * frames).tolist(),
      'teachers': {
        s: (0.006 + 0.001 * frames * (i + 1)).tolist()
        for i, s in enumerate(sources)
      },
      'last_frame': (0.03 * (1 - np.exp(-frames / 6))).tolist(),
      'sequences': 64,
    },
    'vae': {
      s: {
        'error': 0.05, 'variance': 0.3, 'kl': 0.4, 'active': 3, 'latent': 4,
        'coverage': 0.9,
        'edges': edges.tolist(), 'recorded': table, 'replayed': table[::-1],
      }
      for s in sources
    },
    'guidance': {
      'shuffled': 0.1, 'noise': 0.1, 'across_domains': 0.05,
      'across_states': 0.5, 'dead_units': 0.2,
    },
    'teacher_kl': {s: {'kl': 1.0 + i} for i, s in enumerate(sources)},
    'similarity': dict.fromkeys(sources, 1 / len(sources)),
    'relation': {s: {'distance': 0.1, 'explained': 0.4} for s in sources},
    'pull': {'distillation': 1.2, 'others': 40.0},
  }  # fmt: skip
  return {**made, **changes}


def write(folder, config=None, rows=(), diagnosis=None, commit='abc1234'):
  """Writes a run's folder; its path.

  Args:
    folder: the run's.
    config: of config.json; None: no such file.
    rows: of metrics.jsonl; those that are bytes go in as they are.
    diagnosis: of diagnosis.json; None: no such file.
    commit: of starts.jsonl; None: no such file.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  if config is not None:
    (folder / 'config.json').write_text(json.dumps(config))
  lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
  (folder / 'metrics.jsonl').write_bytes(b''.join(x + b'\n' for x in lines))
  if diagnosis is not None:
    (folder / 'diagnosis.json').write_text(json.dumps(diagnosis))
  if commit is not None:
    start = {'commit': commit, 'machine': '2 cores x86_64, 1 x cpu'}
    (folder / 'starts.jsonl').write_text(json.dumps(start) + '\n')
  return folder


def add(folder, task='dmc_quadruped_walk', variant='vid2act', seed=0, **more):
  """A run's folder in a folder of runs; **more of `rows` and the config."""
  keys = 'level', 'weights', 'env_steps', 'evaluations', 'success', 'sources'
  options = {k: more.pop(k) for k in keys if k in more}
  if 'sources' in options:
    more['sources'] = options['sources']
  if variant == 'dreamerv2':
    options['weights'] = None
  files = {k: more.pop(k) for k in ('commit', 'diagnosis') if k in more}
  made = config(task, variant, seed, **more)
  path = folder / f'{len(list(folder.iterdir())):02}-{variant}-{seed}'
  return write(path, made, rows(seed=seed, **options), **files)


def study(folder, seeds=3, **more):
  """Runs of the method and of the baseline, which are clearly worse."""
  for seed in range(seeds):
    add(folder, seed=seed, level=700 + 30 * seed, **more)
    add(folder, variant='dreamerv2', seed=seed, level=400 + 30 * seed, **more)
