"""Compares updates with a golden file of the public code, array by array.

Usage:
  python -m tests.check_parity FILE.npz [--no-jit]

Prints the worst relative error (by norm, per array) of every group of arrays.
Exits with 0 only if all are within tolerance. All sizes come from the file.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments import base
from tests import small
from vid2act_jax import learner
from vid2act_jax.learner import actor_critic, finetune, teachers, torch_import
from vid2act_jax.learner.update import apply_gradients
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Batch, FinetuneBatch

TOLERANCE = {'out': 2e-5, 'grad': 5e-5, 'after': 1e-5}
_GRADIENTS = {'model': 'model', 'actor': 'actor', 'value': 'critic'}
_NO_GRADIENT = 'world_model.imp.bias'  # A softmax ignores a shift.


def agent_of(meta: dict, **overrides) -> learner.Agent:
  """Builds an agent of a golden file's sizes, with constants as noise.

  Args:
    meta: of the golden file.
    **overrides: config values that change the implementation, not the results.
  """
  config = base.get_config().learner
  config.update(overrides)
  keys = ('deter', 'hidden', 'stoch', 'units', 'reward_layers')
  sizes = {'depth': meta['cnn_depth'], **{k: meta[k] for k in keys}}
  config.teacher.update(sizes)
  config.student.update(sizes)
  config.transfer.vae_hidden = meta['vae_hidden']
  config.transfer.guidance_size = meta['vae_feat']
  config.transfer.importance_floor = meta['importance_floor']
  config.transfer.vae_kl = meta['vae_kl_scale']
  config.kl.balance, config.kl.free = meta['kl_balance'], meta['kl_free']
  config.scales.reward = meta['reward_scale']
  config.behavior.update(
    horizon=meta['horizon'],
    discount=meta['discount'],
    lambda_=meta['lambda_'],
    entropy=meta['actor_entropy'],
    slow_period=meta['slow_target_update'],
    actor_layers=meta['actor_layers'],
    critic_layers=meta['value_layers'],
  )
  for ours, theirs in (('model',) * 2, ('actor',) * 2, ('critic', 'value')):
    config.optim[f'{ours}_lr'] = meta[f'{theirs}_lr']
    config.optim[f'{ours}_clip'] = meta[f'{theirs}_grad_clip']
  config.optim.eps = meta['opt_eps']
  noise_fns = learner.NoiseFns(
    latent=lambda key, shape: jnp.full(shape, meta['eps'], jnp.float32),
    action=lambda key, shape: jnp.full(shape, meta['actor_eps'], jnp.float32),
  )
  action_dims = (meta['action_dim'],) * meta['num_domains']
  return learner.build_agent(config, meta['action_dim'], action_dims, noise_fns)


class Report:
  """Collects errors by group."""

  def __init__(self):
    self.groups = {}

  def add(self, group, kind, name, ours, golden):
    """Adds the relative error by norm; golden zeros must be exactly zero."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    if ours.size != golden.size:
      raise ValueError(f'{name}: shape {ours.shape}, golden {golden.shape}')
    golden = golden.reshape(ours.shape)
    scale = np.linalg.norm(golden)
    error = np.linalg.norm(ours - golden)
    if scale:
      error = error / scale
    elif error:
      error = np.inf
    if not np.isfinite(ours).all():
      error = np.inf
    self.groups.setdefault((group, kind), []).append((error, name))

  def limit(self, group, name, ours, limit):
    """Adds an absolute error, for values without a scale, as error / limit."""
    error = float(np.abs(np.asarray(ours)).max()) / limit
    self.groups.setdefault((group, 'bound'), []).append((error, name))

  def lines(self):
    """A table, and whether everything is within tolerance."""
    good, text = True, []
    for (group, kind), errors in self.groups.items():
      worst, name = max(errors)
      tolerance = TOLERANCE.get(kind, 1.0)
      passed = worst <= tolerance
      good &= passed
      text.append(
        f'{"ok  " if passed else "FAIL"} {group:34s} {len(errors):4d} arrays'
        f'  worst {worst:.1e} (allowed {tolerance:.0e})  {name}'
      )
    return text, good


def check(path, jit=True, updates=None, options=None, **overrides) -> Report:
  """Runs the updates of one golden file; returns all errors.

  Args:
    path: the golden file.
    jit: False to run every operation separately.
    updates: number of the file's updates to run; None for all. The
      intermediate arrays of the first one are always checked.
    options: compiler options of XLA.
    **overrides: see `agent_of`.
  """
  with np.load(path, allow_pickle=False) as file:
    golden = {k: file[k] for k in file.files}
  meta = json.loads(golden.pop('meta').tobytes())
  agent = agent_of(meta, **overrides)
  batch = _batch(golden, meta['num_domains'])
  state = _state(agent, golden)
  updates = meta['updates'] if updates is None else updates
  compiled = functools.partial(jax.jit, compiler_options=options)
  report = Report()
  with contextlib.nullcontext() if jit else jax.disable_jit():
    _check_first(report, agent, state, batch, golden, compiled)
    step = compiled(agent.finetune_step)
    for update in range(1, updates + 1):
      state, metrics = step(state, batch, jax.random.key(0))
      prefix = '' if update == 1 else f'step{update}/'
      metric = f'{prefix}metric/' if prefix else 'out/metric/'
      _check_metrics(report, agent, metrics, golden, metric)
      _check_after(report, agent, state, meta, golden, f'{prefix}after/')
  return report


def _batch(golden, domains):
  def read(name):
    get = lambda key: golden[f'in/{name}/{key}']
    first = np.zeros(get('reward').shape, bool)
    return Batch(get('image'), get('action'), get('reward'), first)

  sources = [read(f'source{i}') for i in range(domains)]
  stacked = jax.tree.map(lambda *xs: np.stack(xs), *sources)
  batch = FinetuneBatch(read('target'), stacked)
  return jax.tree.map(jnp.asarray, batch)


def _state(agent, golden):
  weights = _strip(golden, 'weight/')
  groups = jax.tree.map(jnp.asarray, torch_import.load(weights, agent))
  # Only shapes are needed of the optimizer states: they start at zero.
  state = jax.eval_shape(agent.init, jax.random.key(0), groups['teacher'])
  state = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), state)
  params = {k: groups[k] for k in state.params}
  return state.replace(
    params=params, slow_critic=groups['slow_critic'], teacher=groups['teacher']
  )


def _strip(golden, prefix):
  return {
    k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)
  }


def _compare_trees(report, group, kind, ours, golden):
  ours = traverse_util.flatten_dict(ours, sep='/')
  golden = traverse_util.flatten_dict(golden, sep='/')
  for name in ours:
    report.add(group, kind, name, ours[name], golden[name])


def _check_first(report, agent, state, batch, golden, compiled):
  """Checks intermediate arrays of the first update."""
  out = _strip(golden, 'out/')
  model, world = state.params['model'], state.params['model']['world_model']
  key = jax.random.key(0)
  rng = agent.rng(key)
  teacher_fn = compiled(small.teacher_features, static_argnums=0)
  features = teacher_fn(agent, state.teacher, batch, rng)
  _check_teacher(report, agent, state, batch, features, out)

  grad_fn = jax.value_and_grad(finetune.model_loss, argnums=1, has_aux=True)
  (_, (_, forward, transfer_forward)), grads = compiled(
    grad_fn, static_argnums=0
  )(agent, model, state.teacher, batch, (rng, rng))
  _check_student(report, agent, world, batch, forward, out)
  _check_transfer(report, transfer_forward, out)
  _check_gradients(report, agent, 'model', grads, golden)
  video = compiled(agent.open_loop)(state, batch.target, key)
  report.add('open loop', 'out', 'video', video, out['open_loop_video'])

  update_fn = functools.partial(apply_gradients, agent.optimizers['model'])
  state, _ = compiled(update_fn, static_argnums=1)(state, 'model', grads)
  start = finetune.imagination_start(agent, batch, forward, transfer_forward)
  # The slow critic is copied before the first update.
  state = state.replace(slow_critic=state.params['critic'])
  actor_fn = jax.value_and_grad(
    actor_critic.actor_loss, argnums=2, has_aux=True
  )
  (_, (_, imagined, target, weights)), grads = compiled(
    actor_fn, static_argnums=0
  )(agent, state, state.params['actor'], start, rng)
  _check_imagined(report, agent, imagined, target, out)
  _check_gradients(report, agent, 'actor', grads, golden)
  grads = compiled(
    jax.grad(actor_critic.critic_loss, argnums=1), static_argnums=0
  )(agent, state.params['critic'], imagined.feat[:-1], target, weights)
  _check_gradients(report, agent, 'value', grads, golden)


def _channel_first(embed):
  """Transposes our channel-last embeddings to the channel-first of theirs."""
  shape = embed.shape
  return embed.reshape(*shape[:-1], 2, 2, -1).swapaxes(-1, -2).swapaxes(-2, -3)


def _check_teacher(report, agent, state, batch, features, out):
  embeds = teachers.embed_all(agent, state.teacher, batch.target.image)
  for i in range(agent.num_domains):
    golden = _strip(out, f'teacher{i}/')
    embed = _channel_first(embeds[i]).reshape(golden['embed'].shape)
    feat = features.target[i]
    split = agent.teacher.sizes.stoch
    prior = agent.teacher.prior(state.teacher, feat[..., split:])
    eps = agent.noise_fns.latent(None, prior.mean.shape)
    report.add('embeddings', 'out', f'teacher{i}', embed, golden['embed'])
    for name, ours in (
      ('feat', feat),
      ('prior/deter', feat[..., split:]),
      ('prior/mean', prior.mean),
      ('prior/std', prior.std),
      ('prior/stoch', dists.sample(prior, eps)),
    ):
      report.add('teacher features', 'out', f'{i}/{name}', ours, golden[name])


def _check_student(report, agent, world, batch, forward, out):
  embed = _channel_first(agent.student.embed(world, batch.target.image))
  golden = out['student/embed']
  report.add(
    'embeddings', 'out', 'student', embed.reshape(golden.shape), golden
  )
  feat = feature(forward.latent)
  eps = agent.noise_fns.latent(None, forward.prior.mean.shape)
  kl = dists.kl(forward.post, forward.prior)
  for group, name, ours in (
    ('posterior', 'student/post/stoch', forward.latent.stoch),
    ('posterior', 'student/post/deter', forward.latent.deter),
    ('posterior', 'student/post/mean', forward.post.mean),
    ('posterior', 'student/post/std', forward.post.std),
    ('posterior', 'student/feat', feat),
    ('prior', 'student/prior/stoch', dists.sample(forward.prior, eps)),
    ('prior', 'student/prior/deter', forward.latent.deter),
    ('prior', 'student/prior/mean', forward.prior.mean),
    ('prior', 'student/prior/std', forward.prior.std),
    ('kl', 'kl_value', kl),
    ('kl', 'kl_loss_free1', jnp.maximum(kl.mean(), 1)),
    ('kl', 'kl_loss_free0', kl.mean()),
    ('decoder', 'image_mean', agent.student.decode(world, feat)),
    ('reward', 'reward_mean', agent.student.predict_reward(world, feat)),
  ):
    report.add(group, 'out', name, ours, out[name])


def _check_transfer(report, forward, out):
  report.add(
    'similarity', 'out', 'weights', forward.similarity, out['similarity']
  )
  label = forward.label
  report.add('similarity', 'out', 'label', label, out['label'])
  report.add('distances', 'out', 'distance', forward.distance, out['distance'])
  replay = forward.replay
  for i in range(len(replay.states)):
    for name, ours in (
      ('distilled_feat', replay.states[i]),
      ('vae_recon', replay.recon[i]),
      ('vae_mean', replay.latent.mean[i]),
      ('vae_std', replay.latent.std[i]),
    ):
      group = 'VAE' if name.startswith('vae') else 'distilled features'
      name = f'source{i}/{name}'
      report.add(group, 'out', name, ours, out[name])


def _check_imagined(report, agent, imagined, target, out):
  horizon = agent.settings.behavior.horizon
  weights = agent.settings.behavior.discount ** np.arange(horizon)
  golden = out['imag/weights']
  weights = np.broadcast_to(weights[:, None, None], golden.shape)
  for group, name, ours in (
    ('imagination', 'feat', imagined.feat),
    ('imagination', 'feat_action', imagined.actor_input),
    ('imagination', 'action', imagined.action),
    ('imagination', 'state/stoch', imagined.latent.stoch),
    ('imagination', 'state/deter', imagined.latent.deter),
    ('returns', 'target', target),
    ('returns', 'weights', weights),
  ):
    report.add(group, 'out', name, ours, out[f'imag/{name}'])


def _check_gradients(report, agent, optimizer, grads, golden):
  weights = _strip(golden, f'grad/{optimizer}:')
  name = _GRADIENTS[optimizer]
  expected = torch_import.load(weights, agent, (name,))[name]
  if name == 'model':
    grads = jax.tree.map(lambda x: x, grads)  # A copy: an entry is removed.
    bias = grads['transfer']['similarity']['dense'].pop('bias')
    expected['transfer']['similarity']['dense'].pop('bias')
    report.limit('gradient of zero', _NO_GRADIENT, bias, 1e-7)
  _compare_trees(report, f'gradients {optimizer}', 'grad', grads, expected)


def _check_after(report, agent, state, meta, golden, prefix):
  weights = {**_strip(golden, 'weight/'), **_strip(golden, prefix)}
  groups = torch_import.load(weights, agent)
  ours = {**state.params, 'slow_critic': state.slow_critic}
  ours = jax.tree.map(np.asarray, ours)
  bias = ours['model']['transfer']['similarity']['dense'].pop('bias')
  golden_bias = groups['model']['transfer']['similarity']['dense'].pop('bias')
  # Adam's step for a gradient g is lr g / (|g| + eps); g is below 1e-7.
  limit = int(state.step) * meta['model_lr'] * 1e-7 / meta['opt_eps']
  name = f'{prefix}without a gradient'
  report.limit(name, _NO_GRADIENT, bias - golden_bias, limit)
  for name, tree in ours.items():
    _compare_trees(report, f'{prefix}{name}', 'after', tree, groups[name])


def _check_metrics(report, agent, metrics, golden, prefix):
  loss = agent.settings.loss
  constants = {
    'kl_balance': loss.kl_balance,
    'kl_free': loss.kl_free,
    'kl_scale': loss.scales.kl,
  }
  ours = {**metrics, **constants}
  for name, value in _strip(golden, prefix).items():
    report.add(f'{prefix}{name}', 'out', name, ours[name], value)


def main(argv=None) -> int:
  """Command line; the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('file', type=pathlib.Path, nargs='+')
  parser.add_argument('--no-jit', action='store_true')
  args = parser.parse_args(argv)
  good = True
  for path in args.file:
    lines, passed = check(path, jit=not args.no_jit).lines()
    good &= passed
    print('\n'.join([f'{path.name}:', *lines]))
  print('all within tolerance' if good else 'NOT within tolerance')
  return 0 if good else 1


if __name__ == '__main__':
  sys.exit(main())
