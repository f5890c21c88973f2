"""Collecting a source dataset with a behaviour that does not learn.

Every episode is a function of the plan and its own index: a dataset is the same
however many processes made it and however often they were interrupted.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import jax
import numpy as np

from vid2act_jax import envs as environments
from vid2act_jax.data import dataset, files
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.loops import acting, policies, runs
from vid2act_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
  """What to collect.

  task: its name.
  settings: how it is shown and stepped.
  policy: 'checkpoint:RUN', the exploring agent of a run folder, or behaviours
    with their weights: 'scripted:0.5,noisy:0.3,random:0.2'. Scripted is the
    suite's own policy, noisy the same with Gaussian noise, random uniform.
  episodes: how many.
  noise: standard deviation of 'noisy', in units of the action.
  seed: of all that is random.
  """

  task: str
  settings: environments.Settings
  policy: str
  episodes: int
  noise: float
  seed: int


class Played(NamedTuple):
  """An episode that is on disk; `summary` as of `episodes.summarize`."""

  index: int
  behaviour: str
  summary: dict


def collect(
  plan: Plan,
  folder: pathlib.Path,
  workers: int,
  on_episode: Callable[[int, Played], None],
  told: Collection[int] | None = None,
  check: Callable[[], None] = lambda: None,
) -> None:
  """Plays episodes into a dataset folder until it is complete.

  Episodes that are there count: an interrupted collection goes on.

  Args:
    plan: what to collect.
    folder: of the dataset.
    workers: processes that play; 1: this one.
    on_episode: called with the number of episodes there, and the new one; at
      the start also with those that are there and not in `told`.
    told: episodes that have been told in an earlier start; None: all.
    check: called at least once a second; what it raises ends the collection,
      and the episodes under way are lost.

  Raises:
    UserError: the task, the policy or the folder will not do, the folder
      holds or gets other data, or a worker died.
  """
  if plan.episodes < 1 or workers < 1:
    raise UserError('to collect takes at least one episode and one worker')
  weights = policies.parse(plan.policy)
  env = environments.make(plan.task, plan.settings, 0)
  description = env.description
  env.close()
  how = {'method': 'collect', 'policy': plan.policy, 'seed': plan.seed}
  if 'noisy' in weights:
    how['noise'] = plan.noise
  with files.lock(folder):
    _check_same(folder, how, description)
    eps.clean(folder)
    write = functools.partial(
      dataset.write_metadata, folder, plan.task, how, description
    )
    write(False)
    present = {file.index: file for file in eps.list_episodes(folder)}
    names = policies.mixture(weights, plan.episodes)
    missing = [i for i in range(plan.episodes) if i not in present]
    done = plan.episodes - len(missing)
    for index, file in present.items():
      new = told is not None and index not in told
      if new and index < plan.episodes:
        summary = eps.load_summary(file.path)
        on_episode(done, Played(index, names[index], summary))
    stream = _play(plan, folder, missing, workers, check)
    with contextlib.closing(stream):
      for played in stream:
        done += 1
        on_episode(done, played)
    write(True)


def describe(plan: Plan, folder: pathlib.Path) -> str:
  """Statistics of a dataset of this plan, all in all and by behaviour."""
  names = policies.mixture(policies.parse(plan.policy), plan.episodes)
  summaries = {name: [] for name in names}
  for file in eps.list_episodes(folder):
    if file.index < plan.episodes:
      summary = eps.load_summary(file.path)
      summaries[names[file.index]].append(summary)
  lines = []
  groups = summaries.items()
  every = [s for group in summaries.values() for s in group]
  for name, group in [
    ('episodes', every),
    *(groups if len(groups) > 1 else ()),
  ]:
    told = dataset.return_statistics(group)
    line = f'{told["episodes"]} {name}'
    if group:
      r = told['return']
      line += f', return {r["mean"]:.1f} ± {r["std"]:.1f}'
      line += f' ({r["min"]:.1f} to {r["max"]:.1f})'
    if told['success_rate'] is not None:
      line += f', success {told["success_rate"]:.0%}'
    lines.append(line)
  return '\n  '.join(lines)


def _check_same(folder, how, description):
  """Refuses a folder that holds other data than the plan's."""
  if dataset.is_new(folder):
    return
  before = dataset.read_metadata(folder, partial=True)
  wanted = {**description, **how}
  found = {**before, **before['collected']}
  differ = [
    f'{key} {found.get(key)!r}, not {value!r}'
    for key, value in wanted.items()
    if key != 'versions' and found.get(key) != value
  ]
  if differ:
    raise UserError(
      f'{folder}: holds a dataset of {"; ".join(differ)}: choose another folder'
    )


def _play(
  plan: Plan,
  folder: pathlib.Path,
  indices: list[int],
  workers: int,
  check: Callable[[], None],
) -> Iterator[Played]:
  """Plays and writes episodes; yields them as they are done."""
  workers = min(workers, len(indices))
  if workers <= 1:
    maker = _Maker(plan, folder)
    try:
      for index in indices:
        yield maker.make(index, check)
    finally:
      maker.close()
    return
  others = multiprocessing.active_children()
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    multiprocessing.get_context('spawn'),  # JAX's threads bear no fork.
    _begin_worker,
  )
  try:
    pending = {pool.submit(_work, plan, folder, i) for i in indices}
    while pending:
      done, pending = concurrent.futures.wait(
        pending, 0.5, concurrent.futures.FIRST_COMPLETED
      )
      check()
      for future in done:
        yield future.result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UserError(
      f'{folder}: a process that played {plan.task} died, perhaps for want of '
      'memory; use fewer workers and run again, what is there is kept'
    ) from error
  except BaseException:
    # Not waited for: an episode is there whole or not at all.
    for child in multiprocessing.active_children():
      if child not in others:
        child.kill()
    raise
  finally:
    pool.shutdown(cancel_futures=True)


def _begin_worker():
  """In every process that plays: ends when its parent wants it, or is gone."""
  # They reach the whole group; the parent decides what they mean.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)

  def outlived():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=outlived, daemon=True).start()


def _work(plan, folder, index):
  """Plays one episode in a worker process."""
  return _maker(plan, folder).make(index)


@functools.cache
def _maker(plan, folder):
  """This worker's; lives as long as the process."""
  # The parent may hold the accelerator, and one environment needs none.
  jax.config.update('jax_platforms', 'cpu')
  return _Maker(plan, folder)


class _Maker:
  """Plays single episodes of a plan and writes them."""

  def __init__(self, plan: Plan, folder: pathlib.Path):
    self._plan, self._folder = plan, folder
    self._env = environments.make(plan.task, plan.settings, 0)
    try:
      # Not before it is needed: scripts and agents may be missing.
      weights = policies.parse(plan.policy)
      self._acts = {name: getattr(self, f'_{name}')() for name in weights}
    except BaseException:
      self._env.close()
      raise
    self._names = policies.mixture(weights, plan.episodes)

  def make(
    self, index: int, check: Callable[[], None] = lambda: None
  ) -> Played:
    """Plays episode `index` and writes it; `check` is called at every step."""
    # Of the task that is shifted: both begin and are explored alike.
    task = environments.base_name(self._plan.task)
    seed = _seed(self._plan.seed, task, index)
    behaviour, rng = self._names[index], np.random.default_rng(seed)
    act = self._acts[behaviour]
    batch = lambda obs: {k: v[None] for k, v in obs.items()}
    assembler = EpisodeBuilder()
    obs = batch(self._env.reset(seed))
    assembler.add(obs, np.zeros((1, self._env.action_dim)))
    # Numbered through, so that no two episodes draw the same noise.
    step = index * (self._plan.settings.time_limit + 1)
    finished = []
    while not finished:
      check()
      action = np.asarray(act(obs, rng, step), np.float32)
      obs = batch(self._env.step(action[0]))
      finished = assembler.add(obs, action)
      step += 1
    eps.save(self._folder, index, finished[0])
    return Played(index, behaviour, eps.summarize(finished[0]))

  def close(self):
    """Gives the renderer back."""
    self._env.close()

  # Each of these makes a behaviour: (obs, rng, step) -> actions f32 [1, A].

  def _random(self):
    shape = (1, self._env.action_dim)
    return lambda obs, rng, step: rng.uniform(-1, 1, shape)

  def _scripted(self):
    script = environments.scripted_policy(self._plan.task)
    return lambda obs, rng, step: script(self._env)[None]

  def _noisy(self):
    script, noise = self._scripted(), self._plan.noise
    shape = (1, self._env.action_dim)

    def act(obs, rng, step):
      return (script(obs, rng, step) + rng.normal(0, noise, shape)).clip(-1, 1)

    return act

  def _checkpoint(self):
    folder = self._plan.policy.partition(':')[2]
    agent, state = runs.load_agent(os.path.expanduser(folder))
    if agent.action_dim != self._env.action_dim:
      raise UserError(
        f'policy {self._plan.policy!r}: its agent has {agent.action_dim} '
        f'actions, {self._plan.task} has {self._env.action_dim}'
      )
    task = environments.base_name(self._plan.task)
    key = jax.random.key(_seed(self._plan.seed, task))
    player = acting.PolicyRunner(agent, 1, key, explore=True)
    return lambda obs, rng, step: player(state, obs, step)


def _seed(*parts) -> int:
  """A seed from numbers and names."""
  numbers = [p if isinstance(p, int) else list(p.encode()) for p in parts]
  flat = np.concatenate([np.atleast_1d(n) for n in numbers]).tolist()
  return int(np.random.SeedSequence(flat).generate_state(1)[0])
