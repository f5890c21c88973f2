"""Collects a source dataset with fixed behaviour policies.

Every episode is a function of the plan and its index alone: neither the number
of processes nor interruptions change a dataset.
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
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import jax
import numpy as np

from vid2act_jax import behaviours
from vid2act_jax import envs as environments
from vid2act_jax.data import dataset, files
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.loops import acting, env_probe, policies, runs
from vid2act_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings of a dataset to collect.

  task: name of the task.
  settings: of the environment.
  policy: 'checkpoint:RUN', the exploring agent of a run folder, or behaviours
    with their weights: 'scripted:0.5,noisy:0.3,random:0.2'. Scripted is the
    suite's policy, noisy the same with Gaussian noise, random uniform;
    'state:LEVEL' and 'state:FILE.npz' are state policies, with Gaussian noise
    if '+noise' follows.
  episodes: number of episodes.
  noise: standard deviation of Gaussian noise, in units of the action.
  seed: of everything random.
  """

  task: str
  settings: environments.Settings
  policy: str
  episodes: int
  noise: float
  seed: int


class CollectedEpisode(NamedTuple):
  """An episode on disk; `summary` is from `episodes.summarize`."""

  index: int
  behaviour: str
  summary: dict


def collect(
  plan: Plan,
  folder: pathlib.Path,
  workers: int,
  on_episode: Callable[[int, CollectedEpisode], None],
  logged: Collection[int] | None = None,
  check: Callable[[], None] = lambda: None,
) -> None:
  """Collects episodes into a dataset folder until it is complete.

  Existing episodes count, so an interrupted collection resumes.

  Args:
    plan: what to collect.
    folder: of the dataset.
    workers: number of worker processes; 1: this process.
    on_episode: called with the number of episodes done, and the new one; at
      the start also with existing episodes that are not in `logged`.
    logged: indices of episodes that an earlier start has logged; None: all.
    check: called at least once a second; an exception from it ends the
      collection, and unfinished episodes are lost.

  Raises:
    UserError: the task, the policy or the folder is not valid, another process
      writes to the folder or it holds other data, or a worker died.
  """
  if plan.episodes < 1 or workers < 1:
    raise UserError('collecting needs at least one episode and one worker')
  weights = policies.parse(plan.policy)
  description = check_plan(plan)
  provenance = _provenance(plan)
  with files.lock(folder):
    check_folder(plan, folder)
    eps.clean(folder)
    write = functools.partial(
      dataset.write_metadata, folder, plan.task, provenance, description
    )
    write(False)
    present = {file.index: file for file in eps.list_episodes(folder)}
    names = policies.mixture(weights, plan.episodes)
    missing = [i for i in range(plan.episodes) if i not in present]
    done = plan.episodes - len(missing)
    for index, file in present.items():
      new = logged is not None and index not in logged
      if new and index < plan.episodes:
        summary = eps.load_summary(file.path)
        on_episode(done, CollectedEpisode(index, names[index], summary))
    stream = _collect_episodes(plan, folder, missing, workers, check)
    with contextlib.closing(stream):
      for episode in stream:
        done += 1
        on_episode(done, episode)
    write(True)


def describe(plan: Plan, folder: pathlib.Path) -> str:
  """Describes a dataset of this plan, as a whole and by behaviour."""
  names = policies.mixture(policies.parse(plan.policy), plan.episodes)
  summaries = {name: [] for name in names}
  for file in eps.list_episodes(folder):
    if file.index < plan.episodes:
      summary = eps.load_summary(file.path)
      summaries[names[file.index]].append(summary)
  lines = []
  groups = summaries.items()
  whole = [s for group in summaries.values() for s in group]
  for name, group in [
    ('episodes', whole),
    *(groups if len(groups) > 1 else ()),
  ]:
    stats = dataset.return_statistics(group)
    line = f'{stats["episodes"]} {name}'
    if group:
      r = stats['return']
      line += f', return {r["mean"]:.1f} ± {r["std"]:.1f}'
      line += f' ({r["min"]:.1f} to {r["max"]:.1f})'
    if stats['success_rate'] is not None:
      line += f', success {stats["success_rate"]:.0%}'
    lines.append(line)
  return '\n  '.join(lines)


def check_plan(plan: Plan) -> dict:
  """Checks that the task and the policies of a plan can be made.

  Returns:
    The environment's description.

  Raises:
    UserError: they cannot, or do not go together.
  """
  probed = env_probe.probe(plan.task, plan.settings)
  weights = policies.parse(plan.policy)
  for path in policies.find_state_policies(plan.policy, plan.task).values():
    behaviours.read(path).check_states(probed.states)
  if {'scripted', 'noisy'} & set(weights):
    environments.scripted_policy(plan.task)
  if plan.policy.startswith(policies.CHECKPOINT):
    _check_agent(plan, runs.read_action_dim(_agent_folder(plan)), probed)
  return probed.description


def _agent_folder(plan):
  return pathlib.Path(plan.policy.partition(':')[2]).expanduser()


def _check_agent(plan, action_dim, env):
  if action_dim != env.action_dim:
    raise UserError(
      f'policy {plan.policy!r}: its agent has {action_dim} actions,'
      f' {plan.task} has {env.action_dim}'
    )


def _provenance(plan):
  """The part of a dataset's metadata that its plan determines."""
  out = {'method': 'collect', 'policy': plan.policy, 'seed': plan.seed}
  paths = policies.find_state_policies(plan.policy, plan.task)
  if paths:
    # Other files under the same names would be other behaviours.
    out['state_policies'] = {
      name: behaviours.digest(path) for name, path in paths.items()
    }
  if any(map(policies.is_noisy, policies.parse(plan.policy))):
    out['noise'] = plan.noise
  return out


def check_folder(plan: Plan, folder: pathlib.Path) -> None:
  """Raises a UserError if the folder holds data of another plan.

  As in `check_plan`, also if the plan's environment cannot be made.
  """
  if dataset.is_new(folder):
    return
  before = dataset.read_metadata(folder, partial=True)
  description = env_probe.probe(plan.task, plan.settings).description
  wanted = {**description, **_provenance(plan)}
  found = {**before, **before['collected']}
  differ = [
    f'{key} {found.get(key)!r}, not {value!r}'
    for key, value in wanted.items()
    if key != 'versions' and found.get(key) != value
  ]
  if differ:
    raise UserError(
      f'{folder}: holds a dataset of {"; ".join(differ)}: choose another folder'
      ' (--config.source_dir=...)'
    )


def _collect_episodes(
  plan: Plan,
  folder: pathlib.Path,
  indices: list[int],
  workers: int,
  check: Callable[[], None],
) -> Iterator[CollectedEpisode]:
  """Collects and writes episodes; yields each when it is done."""
  workers = min(workers, len(indices))
  if workers <= 1:
    collector = _Collector(plan, folder)
    try:
      for index in indices:
        yield collector.collect(index, check)
    finally:
      collector.close()
    return
  # JAX's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  pool = concurrent.futures.ProcessPoolExecutor(workers, context, _init_worker)
  try:
    pending = {pool.submit(_collect_one, plan, folder, i) for i in indices}
    while pending:
      done, pending = concurrent.futures.wait(
        pending, 0.5, concurrent.futures.FIRST_COMPLETED
      )
      check()
      for future in done:
        yield future.result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UserError(
      f'{folder}: a worker process of {plan.task} died, perhaps out of memory;'
      ' use fewer workers (--config.collect.workers=1) and run again: finished'
      ' episodes are kept'
    ) from error
  except BaseException:
    # Killed at once: an episode is written whole or not at all.
    for child in list(pool._processes.values()):  # Not those of other runs.
      child.kill()
    raise
  finally:
    pool.shutdown(cancel_futures=True)


def _init_worker():
  """Sets up a worker process: it ends with its parent."""
  # Signals reach the whole process group; only the parent handles them.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)

  def exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=exit_with_parent, daemon=True).start()


def _collect_one(plan, folder, index):
  """Collects one episode in a worker process."""
  return _get_collector(plan, folder).collect(index)


@functools.cache
def _get_collector(plan, folder):
  """The collector of this worker process."""
  # The parent may hold the accelerator, and one environment needs none.
  jax.config.update('jax_platforms', 'cpu')
  # The parent has made the same environment before.
  warnings.simplefilter('ignore', environments.EnvWarning)
  return _Collector(plan, folder)


class _Collector:
  """Collects and writes single episodes of a plan."""

  def __init__(self, plan: Plan, folder: pathlib.Path):
    self._plan, self._folder = plan, folder
    self._env = environments.make(plan.task, plan.settings, 0)
    try:
      # Only the policies in use: scripts and agents may be missing.
      weights = policies.parse(plan.policy)
      self._policies = {name: self._policy(name) for name in weights}
    except BaseException:
      self._env.close()
      raise
    self._names = policies.mixture(weights, plan.episodes)

  def collect(
    self, index: int, check: Callable[[], None] = lambda: None
  ) -> CollectedEpisode:
    """Collects and writes episode `index`; calls `check` at every step."""
    # A shifted task has the seeds of its base task.
    task = environments.base_name(self._plan.task)
    seed = _seed(self._plan.seed, task, index)
    behaviour, rng = self._names[index], np.random.default_rng(seed)
    policy_fn = self._policies[behaviour]
    batch = lambda obs: {k: v[None] for k, v in obs.items()}
    builder = EpisodeBuilder()
    obs = batch(self._env.reset(seed))
    builder.add(obs, np.zeros((1, self._env.action_dim)))
    # Steps have unique numbers, so that no two episodes draw the same noise.
    step = index * (self._plan.settings.time_limit + 1)
    finished = []
    while not finished:
      check()
      action = np.asarray(policy_fn(obs, rng, step), np.float32)
      obs = batch(self._env.step(action[0]))
      finished = builder.add(obs, action)
      step += 1
    eps.save(self._folder, index, finished[0])
    return CollectedEpisode(index, behaviour, eps.summarize(finished[0]))

  def close(self):
    """Closes the environment and its renderer."""
    self._env.close()

  # Each of these returns a policy: (obs, rng, step) -> actions f32 [1, A].

  def _policy(self, name):
    if name.startswith(policies.STATE):
      policy = self._state(name)
    else:
      policy = getattr(self, f'_{name}')()
    return self._with_noise(policy) if policies.is_noisy(name) else policy

  def _with_noise(self, policy):
    noise, shape = self._plan.noise, (1, self._env.action_dim)

    def act(obs, rng, step):
      return (policy(obs, rng, step) + rng.normal(0, noise, shape)).clip(-1, 1)

    return act

  def _state(self, name):
    path = policies.find_state_policy(name, self._plan.task)
    state_policy = behaviours.read(path)

    def act(obs, rng, step):
      action = state_policy(self._env.named_state())
      return environments.pad_or_truncate(action, self._env.action_dim)[None]

    return act

  def _random(self):
    shape = (1, self._env.action_dim)
    return lambda obs, rng, step: rng.uniform(-1, 1, shape)

  def _scripted(self):
    script = environments.scripted_policy(self._plan.task)
    return lambda obs, rng, step: script(self._env)[None]

  _noisy = _scripted

  def _checkpoint(self):
    agent, state = runs.load_agent(_agent_folder(self._plan))
    _check_agent(self._plan, agent.action_dim, self._env)
    task = environments.base_name(self._plan.task)
    key = jax.random.key(_seed(self._plan.seed, task))
    policy = acting.PolicyRunner(agent, 1, key, explore=True)
    return lambda obs, rng, step: np.asarray(policy(state, obs, step))


def _seed(*parts) -> int:
  """Derives a seed from numbers and names."""
  numbers = [p if isinstance(p, int) else list(p.encode()) for p in parts]
  flat = np.concatenate([np.atleast_1d(n) for n in numbers]).tolist()
  return int(np.random.SeedSequence(flat).generate_state(1)[0])
