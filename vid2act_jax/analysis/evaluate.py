"""Evaluates a run's newest policy, on its own task or another."""

import pathlib

import jax
from ml_collections import ConfigDict

from vid2act_jax import envs
from vid2act_jax.data import files
from vid2act_jax.loops import acting, runs, setup
from vid2act_jax.loops import video as video_lib
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

_SEED_OFFSET = 1_000_000  # No episode is one that training saw.
_MAX_ENVS = 8


def evaluate(
  run: pathlib.Path,
  episodes: int = 100,
  task: str = '',
  seed: int = 0,
  video: pathlib.Path | None = None,
) -> dict:
  """Plays whole episodes with the means of states and actions.

  Args:
    run: the run's folder, with a checkpoint of the finetuning.
    episodes: their number.
    task: one other than the run's, such as a shifted one, with as many actions.
    seed: of the episodes; a seed always gives the same numbers.
    video: the .mp4 or .gif file to write one episode to, or None.

  Returns:
    {run, task, seed, env_steps and updates (of the training), return,
    return_std, episodes, success?}.

  Raises:
    UserError: there is no such run or task, it has other actions, or the video
      cannot be written there.
  """
  if episodes < 1:
    raise UserError(f'{episodes} episodes: there must be at least 1')
  config = ConfigDict(runs.read_config_dict(run))
  if video:  # Before the episodes are played: their results would be lost.
    video_lib.check_suffix(video)
    files.make_folder(video.absolute().parent)
  agent, state = runs.load_agent(run)
  _, metadata, _ = Checkpoint(run / runs.STUDENT).restore_raw()
  task = task or config.task
  envs.check(task)
  num = max(n for n in range(1, _MAX_ENVS + 1) if episodes % n == 0)
  settings = setup.env_settings(config)
  with envs.VectorEnv(task, settings, num, _SEED_OFFSET + seed, False) as env:
    if env.action_dim != agent.action_dim:
      raise UserError(
        f'{task} has {env.action_dim} actions, but the policy of {run} has'
        f' {agent.action_dim}'
      )
    key = jax.random.key(seed)
    policy = acting.PolicyRunner(agent, env.num, key, explore=False)
    evaluator = acting.Evaluator(env, episodes, policy)
    values, frames = evaluator(state, 0)
  if video:
    data = video_lib.encode(frames, video.suffix)
    files.atomic_write(video, lambda file: file.write(data))
  return {
    'run': str(run),
    'task': task,
    'seed': seed,
    'env_steps': metadata['agent_steps'] * config.env.action_repeat,
    'updates': metadata['updates'],
    **values,
  }
