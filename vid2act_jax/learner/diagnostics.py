"""Diagnostics of a trained agent's parts, on sequences of frames.

B sequences, L frames, N domains, A action size. `agent` is an `Agent` with the
measured part, `state` its LearnerState, `batch` [B, L, ...] of the target in
NumPy arrays, and `key` for the noise. The results are plain numbers; most are
computed on a few sequences at a time.
"""

import dataclasses
import itertools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import spatial

from vid2act_jax.learner import finetune, open_loop, transfer
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Batch, FinetuneBatch, Normal

_BATCH = open_loop.ROWS  # Sequences at a time.
_BINS = 20  # Of an action's range.
_ACTIVE = 0.01  # Nats above which a latent dimension carries information.
_RIDGE = 0.01  # Of the variance of standardised features.
_NEIGHBOURS, _MIN_RADIUS = 5, 0.05  # Of `coverage`; of an action dimension.


def in_batches(fn: Callable, rows, key: jax.Array):
  """Applies fn(rows [b, ...], key) -> [b, ...] to a tree of [B, ...].

  Every batch has its own key. The last one is padded with rows that are
  dropped from the result, so that one compiled program serves all.
  """
  num = len(jax.tree.leaves(rows)[0])
  outs = []
  for index, first in enumerate(range(0, num, _BATCH)):
    chosen = np.arange(first, first + _BATCH) % num
    part = jax.tree.map(lambda x, chosen=chosen: x[chosen], rows)
    out = jax.device_get(fn(part, jax.random.fold_in(key, index)))
    chex.assert_tree_shape_prefix(out, (_BATCH,))
    outs.append(jax.tree.map(lambda x, n=num - first: x[:n], out))
  return jax.tree.map(lambda *xs: np.concatenate(xs), *outs)


def _swap(tree):
  return jax.tree.map(lambda x: x.swapaxes(0, 1), tree)


def prediction(agent, state, batch: Batch, key: jax.Array) -> list[float]:
  """Returns the student's open-loop error of each frame after the context.

  Mean squared error, pixels in 0..1.
  """
  run = jax.jit(lambda state, *xs: frame_errors(agent.open_loop(state, *xs)))
  return _mean(in_batches(lambda *xs: run(state, *xs), batch, key))


def last_frame(batch: Batch) -> list[float]:
  """Returns `prediction` for repeating the last frame of the context."""
  assert batch.image is not None
  frames = (row[open_loop.CONTEXT - 1 :] for row in batch.image)
  frames = (row.astype(np.float32) / 255 for row in frames)
  errors = [np.square(x[1:] - x[0]).mean((1, 2, 3)) for x in frames]
  return _mean(np.stack(errors))


def frame_errors(image):
  """Errors in what `open_loop` shows: [B, L, ...] -> [B, L - context]."""
  truth, guess, _ = jnp.split(image[:, open_loop.CONTEXT :], 3, 2)
  return jnp.square(guess - truth).mean((2, 3, 4))


def _mean(rows):
  return rows.mean(0, np.float64).tolist()


def action_replay(agent, state, sources: Batch, key: jax.Array) -> list[dict]:
  """Returns `domain_replay` of sources [B, N, L, ...], actions zero-padded."""

  @jax.jit
  def run(state, target, sources, key):
    batch = FinetuneBatch(target, _swap(sources))
    return _swap(_replay(agent, state, batch, key))

  # The losses need a batch of the target, which the VAE does not see. An
  # argument: the compiler would take minutes to fold constant frames.
  target = jax.tree.map(lambda x: np.zeros_like(x[:1, 0]), sources)
  shape = *target.reward.shape, agent.action_dim
  target = target.replace(action=np.zeros(shape, np.float32))
  found = in_batches(lambda *xs: run(state, target, *xs), sources, key)
  out = []
  for i, size in enumerate(agent.source_action_dims):
    *actions, kl = (x[:, i].reshape(-1, x.shape[-1]) for x in found)
    recorded, recon, replayed = (x[:, :size] for x in actions)
    out.append(domain_replay(recorded, recon, replayed, kl))
  return out


def _replay(agent, state, batch, key):
  """Actions [N, B, L - 1, A]: recorded, reconstructed, replayed; KL."""
  # A frozen generator is diagnosed like one that is trained.
  generator = dataclasses.replace(agent.variant.generator, until=1.0)
  variant = dataclasses.replace(agent.variant, generator=generator)
  agent = dataclasses.replace(agent, variant=variant)
  *rngs, prior_rng = agent.rng(key).split(3)
  model = state.params['model']
  _, (_, _, outputs) = finetune.model_loss(
    agent, model, state.teacher, batch, rngs
  )
  assert outputs is not None and outputs.replay is not None
  replay = outputs.replay
  shape = replay.recon.shape[:-1]
  noise = agent.vae.latent_noise(prior_rng, shape)
  label = jnp.arange(agent.num_domains)[:, None, None]
  vae = lambda *xs, method: agent.vae.apply(
    {'params': model['transfer']['vae']}, *xs, method=method
  )
  feat, label = replay.states[:, :, :-1], jnp.broadcast_to(label, shape)
  guidance = vae(feat, jnp.clip(noise, -0.5, 0.5), label, method='guidance')
  replayed = vae(guidance, method='decode')
  each = jax.tree.map(lambda x: x[..., None], replay.latent)
  unit = Normal(jnp.zeros_like(each.mean), jnp.ones_like(each.std))
  recorded = batch.sources.action[:, :, 1:]
  return recorded, replay.recon, replayed, dists.kl(each, unit)


def domain_replay(
  recorded: np.ndarray, recon: np.ndarray, replayed: np.ndarray, kl: np.ndarray
) -> dict:
  """Returns how well the VAE encodes and replays the actions of one domain.

  Args:
    recorded: f32 [M, A], the domain's own action dimensions.
    recon: f32 [M, A], reconstructed from latents of the posterior.
    replayed: f32 [M, A], decoded from latents of the prior, as in guidance.
    kl: f32 [M, Z], of each latent dimension, nats.

  Returns:
    error: mean squared error of an action dimension; variance: that of always
    predicting the mean; kl: mean of a latent dimension; active: number with
    more than 0.01 nats; latent: Z; coverage: of the recorded actions by the
    replayed ones; edges: of the histograms' bins; recorded, replayed: for each
    action dimension the densities in them.
  """
  edges = np.linspace(-1, 1, _BINS + 1)
  kl = kl.mean(0, np.float64)

  def densities(actions):
    # Rounding may leave recorded actions a little outside.
    columns = np.clip(actions, -1, 1).T
    return [np.histogram(c, edges, density=True)[0].tolist() for c in columns]

  return {
    'error': float(np.square(recon - recorded).mean(dtype=np.float64)),
    'variance': float(recorded.var(0, np.float64).mean()),
    'kl': float(kl.mean()),
    'active': int((kl > _ACTIVE).sum()),
    'latent': len(kl),
    'coverage': coverage(recorded, replayed),
    'edges': edges.round(6).tolist(),
    'recorded': densities(recorded),
    'replayed': densities(replayed),
  }


def coverage(recorded: np.ndarray, replayed: np.ndarray) -> float:
  """Returns the share of recorded actions that have a replayed one nearby.

  Nearer than the fifth nearest recorded one, as in Naeem et al. 2020 (arXiv
  2002.09797), or than 0.05 in each dimension: saturated actions are equal. It
  is about 0.97 for two samples of one distribution.

  Args:
    recorded: f32 [M, A], with M at least 2.
    replayed: f32 [K, A].
  """
  nearest = np.arange(1, min(_NEIGHBOURS + 1, len(recorded)) + 1)  # And itself.
  radius = spatial.KDTree(recorded).query(recorded, nearest)[0][:, -1]
  radius = radius.clip(_MIN_RADIUS * np.sqrt(recorded.shape[1]))
  return float((spatial.KDTree(replayed).query(recorded)[0] <= radius).mean())


def follow(
  agent, state, batch: Batch, key: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Runs the policy on recorded sequences and actions, as in evaluation.

  Returns:
    The actor's inputs, f32 [B, L, F (+ guidance, + A)], the similarity weights,
    f32 [B, L, N], and the teachers' features, f32 [B, L, N, F_teacher]. If all
    weights are equal, `key` selects the domain of the guidance.
  """

  @jax.jit
  def run(state, batch, key):
    def step(carry, frame):
      obs = {'image': frame.image, 'is_first': frame.is_first}
      carry = carry.replace(action=frame.action)
      carry, _, extras = agent.policy(state, carry, obs, key, explore=False)
      return carry, (carry.student, carry.teacher, extras['similarity'])

    carry = agent.initial_carry(batch.reward.shape[0])
    _, (latent, teacher, weights) = jax.lax.scan(step, carry, _swap(batch))
    weights = weights.swapaxes(0, 1)  # [N, L, B]
    noise = agent.rng(key).normal(weights.shape)
    label = transfer.select_domain(agent, weights, noise)
    noise = jnp.zeros((*label.shape, agent.vae.latent_dim))
    params = state.params['model']['transfer']
    inputs = transfer.actor_input(agent, params, latent, label, noise)
    teacher = jnp.moveaxis(feature(teacher), 2, 0)  # Was [L, N, B, F].
    return inputs.swapaxes(0, 1), weights.swapaxes(0, 2), teacher

  return in_batches(lambda *xs: run(state, *xs), batch, key)


def guidance_use(
  agent, state, inputs: np.ndarray, rng: np.random.Generator
) -> dict:
  """Returns how much the policy's mean action depends on its guidance.

  The actor's inputs are f32 [..., F + guidance (+ A)]; `rng` shuffles the
  states.

  Returns:
    Mean absolute changes of an action dimension. shuffled: when the guidance is
    that of another state; noise: when it is normal noise with the mean and the
    deviation of each unit; across_domains: from one domain's guidance to
    another's, None if fewer than two are trained; across_states: from one state
    to another. dead_units: share of the guidance's units that are zero in all
    states.
  """
  inputs = inputs.reshape(-1, inputs.shape[-1])
  size = agent.student.feat_dim
  ends = size, size + agent.settings.transfer.guidance_size
  feat, guidance, base = np.split(inputs, ends, -1)
  other = rng.permutation(len(inputs))
  noise = rng.normal(guidance.mean(0), guidance.std(0), guidance.shape)
  act = jax.jit(lambda *xs: agent.actor.apply({'params': xs[0]}, xs[1]).mean)

  def actions(guidance):
    inputs = np.concatenate([feat, guidance.astype(feat.dtype), base], -1)
    return np.asarray(act(state.params['actor'], inputs), np.float64)

  action = actions(guidance)
  each = [actions(x) for x in _domain_guidance(agent, state, feat)]
  pairs = [np.abs(x - y).mean() for x, y in itertools.combinations(each, 2)]
  return {
    'shuffled': float(np.abs(actions(guidance[other]) - action).mean()),
    'noise': float(np.abs(actions(noise) - action).mean()),
    'across_domains': float(np.mean(pairs)) if pairs else None,
    'across_states': float(np.abs(action[other] - action).mean()),
    'dead_units': float((guidance == 0).all(0).mean()),
  }


def _domain_guidance(agent, state, feat):
  """Yields the guidance [M, ...] of features [M, F] under each label."""
  if agent.variant.weights.kind == 'single':  # The others' is not trained.
    return
  params = state.params['model']['transfer']

  @jax.jit
  def guide(feat, label):
    states = transfer.student_generator_states(agent, params, feat, label)
    noise = jnp.zeros((len(feat), agent.vae.latent_dim))
    return transfer.guidance(agent, params, states, label, noise)

  for domain in range(agent.num_domains):
    yield np.asarray(guide(feat, jnp.full(len(feat), domain)))


def feature_similarity(
  agent, state, student: np.ndarray, teacher: np.ndarray
) -> list[dict]:
  """Returns what the weights depend on: how near and how informed sources are.

  Features of the student, f32 [B, L, F] with B at least 2, and of the teacher,
  f32 [B, L, N, F_teacher].

  Returns:
    For each source its distance, the mean of D_i, which the weights are
    trained to minimise; and explained, the share of the variance of the
    student's features that a linear map of the source's features predicts,
    fitted to one half of the sequences and tested on the other.
  """
  params = state.params['model']['transfer']
  if agent.variant.distillation.direction == 'to_teacher':
    mapped = transfer.predict_teachers(agent, params, jnp.asarray(student))
    difference = np.moveaxis(np.asarray(mapped), 0, 2) - teacher
  else:
    mapped = transfer.distill(agent, params, jnp.asarray(teacher))
    difference = mapped - student[:, :, None]
  distance = np.square(difference).mean((0, 1, 3))
  half = len(student) // 2
  flat = lambda x: x.reshape(-1, x.shape[-1]).astype(np.float64)
  fitted, tested = flat(student[:half]), flat(student[half:])
  spread = np.square(tested - fitted.mean(0)).mean()
  out = []
  for index, value in enumerate(np.asarray(distance)):
    inputs = flat(teacher[:half, :, index]), flat(teacher[half:, :, index])
    left = np.square(tested - ridge(inputs[0], fitted, inputs[1])).mean()
    explained = 1 - left / spread if spread else 0.0
    out.append({'distance': float(value), 'explained': float(explained)})
  return out


def ridge(x, y, inputs):
  """Ridge regression of y [M, F] on x [M, G], at inputs [K, G]: [K, F]."""
  center, scale = x.mean(0), x.std(0) + 1e-6
  x, inputs = (x - center) / scale, (inputs - center) / scale
  gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
  return inputs @ np.linalg.solve(gram, x.T @ (y - y.mean(0))) + y.mean(0)


def grad_norms(agent, state, batch: Batch, key: jax.Array) -> dict[str, float]:
  """Returns global gradient norms of the student's world model, by loss.

  Before clipping: distillation, of that loss alone, scaled as in the total;
  others, of all other losses together. `batch` is as large as in one update.
  """
  # The action VAE's losses give the student no gradient.
  guidance = dataclasses.replace(agent.variant.guidance, kinds=())
  variant = dataclasses.replace(agent.variant, guidance=guidance)
  agent = dataclasses.replace(agent, variant=variant)

  @jax.jit
  def norms(state, batch, rngs):
    model = state.params['model']

    def losses(student):
      params = {**model, 'world_model': student}
      args = agent, params, state.teacher, FinetuneBatch(batch, None), rngs
      total, (metrics, *_) = finetune.model_loss(*args)
      own = metrics['distillation_loss']
      return {'distillation': own, 'others': total - own}

    values, vjp = jax.vjp(losses, model['world_model'])
    zero = dict.fromkeys(values, jnp.zeros(()))
    cotangents = {name: {**zero, name: jnp.ones(())} for name in values}
    return {name: optax.tree.norm(*vjp(x)) for name, x in cotangents.items()}

  return jax.tree.map(float, norms(state, batch, agent.rng(key).split()))
