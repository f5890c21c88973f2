"""What a trained agent's parts do, measured on sequences of frames.

B sequences, L frames, N domains, A action size. All measures take NumPy arrays
and give plain numbers, a few sequences at a time.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.learner import finetune, open_loop, teachers, transfer
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Batch, FinetuneBatch, Normal, Params

_CHUNK = 6  # Sequences at a time: all that an open-loop prediction shows.
_BINS = 20  # Of an action's range.
_ACTIVE = 0.01  # Nats from which on a latent dimension tells something.


def in_chunks(fn: Callable, rows, key: jax.Array):
  """Applies fn(rows [b, ...], key) -> [b, ...] to a tree of [B, ...].

  Every chunk has a key of its own. The last one is filled up with rows that
  are dropped again, so that one compiled program serves all.
  """
  num = len(jax.tree.leaves(rows)[0])
  outs = []
  for index, first in enumerate(range(0, num, _CHUNK)):
    here = np.arange(first, first + _CHUNK) % num
    part = jax.tree.map(lambda x, here=here: x[here], rows)
    out = jax.device_get(fn(part, jax.random.fold_in(key, index)))
    chex.assert_tree_shape_prefix(out, (_CHUNK,))
    outs.append(jax.tree.map(lambda x, n=num - first: x[:n], out))
  return jax.tree.map(lambda *xs: np.concatenate(xs), *outs)


def prediction(agent, state, batch: Batch, key: jax.Array) -> list[float]:
  """The student's open-loop error.

  Args:
    agent: an `Agent`.
    state: its LearnerState.
    batch: [B, L, ...].
    key: for the noise.

  Returns:
    Mean squared error of each frame after the context, pixels in 0..1.
  """
  run = jax.jit(lambda state, *xs: _frame_errors(agent.open_loop(state, *xs)))
  return _mean(in_chunks(lambda *xs: run(state, *xs), batch, key))


def teacher_predictions(
  agent, params: Params, batch: Batch, key: jax.Array
) -> list[list[float]]:
  """As `prediction`, of the teacher under each of its N labels.

  Args:
    agent: an `Agent` with a teacher.
    params: the teacher's, with its decoder.
    batch: [B, L, ...], of the target.
    key: for the noise, the same for every label.
  """

  @jax.jit
  def run(params, batch, key, domain):
    action = teachers.fit_actions(batch.action, agent.source_mask)[domain]
    label = jnp.full(len(action), domain)
    rng, rows = agent.rng(key), batch.replace(action=action)
    return _frame_errors(
      open_loop.open_loop(agent.teacher, params, rows, rng, label)
    )

  return [
    _mean(in_chunks(lambda b, k, i=i: run(params, b, k, i), batch, key))
    for i in range(agent.num_domains)
  ]


def last_frame(batch: Batch) -> list[float]:
  """As `prediction`, of repeating the last frame of the context."""
  errors = []
  for row in batch.image:
    frames = row[open_loop.CONTEXT - 1 :].astype(np.float32) / 255
    errors.append(np.square(frames[1:] - frames[0]).mean((1, 2, 3)))
  return _mean(np.stack(errors))


def _frame_errors(picture):
  """What `open_loop` shows, [B, L, ...] -> [B, L - context]."""
  truth, guess, _ = jnp.split(picture[:, open_loop.CONTEXT :], 3, 2)
  return jnp.square(guess - truth).mean((2, 3, 4))


def _mean(rows):
  return rows.mean(0, np.float64).tolist()


def action_replay(agent, state, sources: Batch, key: jax.Array) -> list[dict]:
  """How the VAE reconstructs and replays the sources' actions.

  Args:
    agent: an `Agent` with a VAE.
    state: its LearnerState.
    sources: [B, N, L, ...], every domain's own; actions zero-padded.
    key: for the noise.

  Returns:
    For each domain what `domain_replay` tells.
  """

  @jax.jit
  def run(state, blank, sources, key):
    sources = jax.tree.map(lambda x: x.swapaxes(0, 1), sources)
    out = _replay(agent, state, FinetuneBatch(blank, sources), key)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), out)

  # An argument: the compiler would take minutes to fold constant frames.
  blank = _blank(agent, sources)
  found = in_chunks(lambda *xs: run(state, blank, *xs), sources, key)
  recorded, recon, replayed, kl = found
  dims = agent.source_action_dims
  flat = lambda x, i: x[:, i].reshape(-1, x.shape[-1])
  return [
    domain_replay(
      *(flat(x, i)[:, : dims[i]] for x in (recorded, recon, replayed)),
      flat(kl, i),
    )
    for i in range(agent.num_domains)
  ]


def _replay(agent, state, batch, key):
  """Actions [N, B, L - 1, A]: recorded, reconstructed, replayed; KL."""
  *rngs, prior_rng = agent.rng(key).split(3)
  model = state.params['model']
  _, (_, _, extra) = finetune.model_loss(
    agent, model, state.teacher, batch, rngs
  )
  extra = extra.replay
  shape = extra.recon.shape[:-1]
  noise = agent.vae.latent_noise(prior_rng, shape)
  label = jnp.arange(agent.num_domains)[:, None, None]
  vae = lambda *xs, method: agent.vae.apply(
    {'params': model['transfer']['vae']}, *xs, method=method
  )
  guidance = vae(
    extra.distilled[:, :, :-1],
    jnp.clip(noise, -0.5, 0.5),
    jnp.broadcast_to(label, shape),
    method='guidance',
  )
  replayed = vae(guidance, method='decode')
  each = jax.tree.map(lambda x: x[..., None], extra.latent)
  unit = Normal(jnp.zeros_like(each.mean), jnp.ones_like(each.std))
  return (
    batch.sources.action[:, :, 1:],
    extra.recon,
    replayed,
    dists.kl(each, unit),
  )


def _blank(agent, sources):
  """The losses want a batch of the target, which the VAE does not see."""
  lead = 1, sources.reward.shape[2]
  return Batch(
    image=np.zeros((*lead, *sources.image.shape[3:]), np.uint8),
    action=np.zeros((*lead, agent.action_dim), np.float32),
    reward=np.zeros(lead, np.float32),
    is_first=np.zeros(lead, bool),
    discount=np.ones(lead, np.float32),
  )


def domain_replay(
  recorded: np.ndarray, recon: np.ndarray, replayed: np.ndarray, kl: np.ndarray
) -> dict:
  """Figures of one domain's VAE.

  Args:
    recorded: f32 [M, A], the domain's own action dimensions alone.
    recon: f32 [M, A], reconstructed from latents of the posterior.
    replayed: f32 [M, A], decoded from latents of the prior, as guidance has it.
    kl: f32 [M, Z], of each latent dimension, nats.

  Returns:
    error: mean squared error of an action dimension; variance: the same of
    always guessing the mean; kl: mean of a latent dimension; active: how many
    have more than 0.01 nats; latent: Z; edges: of the histograms' bins;
    recorded, replayed: for each action dimension the densities in them.
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
    'edges': edges.round(6).tolist(),
    'recorded': densities(recorded),
    'replayed': densities(replayed),
  }


def follow(
  agent, state, batch: Batch, key: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lets the agent watch sequences as it does in evaluation.

  Args:
    agent: an `Agent` with a teacher.
    state: its LearnerState.
    batch: [B, L, ...], of the target; the recorded actions are taken.
    key: chooses a domain where all are equal.

  Returns:
    What the actor reads, f32 [B, L, F (+ guidance)], the similarity weights,
    f32 [B, L, N], and the teachers' features, f32 [B, L, N, F_teacher].
  """

  @jax.jit
  def run(state, batch, key):
    def step(carry, frame):
      obs = {'image': frame.image, 'is_first': frame.is_first}
      carry = carry.replace(action=frame.action)
      carry, _, extras = agent.policy(state, carry, obs, key, explore=False)
      told = carry.student, carry.teacher, extras['similarity']
      return carry, told

    frames = jax.tree.map(lambda x: x.swapaxes(0, 1), batch)
    carry = agent.initial_carry(batch.reward.shape[0])
    _, (latent, teacher, weights) = jax.lax.scan(step, carry, frames)
    weights = weights.swapaxes(0, 1)  # [N, L, B]
    domain_noise = agent.rng(key).normal(weights.shape)
    label = transfer.select_domain(agent, weights, domain_noise)
    noise = jnp.zeros((*label.shape, agent.vae.latent_dim))
    inputs = transfer.actor_input(
      agent, state.params['model'], latent, label, noise
    )
    teacher = jnp.moveaxis(feature(teacher), 2, 0)  # Was [L, N, B, F].
    return inputs.swapaxes(0, 1), weights.swapaxes(0, 2), teacher

  return in_chunks(lambda *xs: run(state, *xs), batch, key)


def guidance_use(
  agent, state, inputs: np.ndarray, rng: np.random.Generator
) -> dict:
  """How much the policy's mean action depends on its guidance.

  Args:
    agent: an `Agent` with a VAE.
    state: its LearnerState.
    inputs: what the actor reads, f32 [..., F + guidance].
    rng: shuffles the states.

  Returns:
    shuffled: mean absolute change of an action dimension when the guidance is
    that of another state; across_states: mean absolute difference of the
    actions of two states; dead_units: share of the guidance's units that are
    zero in all states.
  """
  inputs = inputs.reshape(-1, inputs.shape[-1])
  feat, guidance = np.split(inputs, [agent.student.feat_dim], -1)
  other = rng.permutation(len(inputs))

  @jax.jit
  def act(params, inputs):
    return agent.actor.apply({'params': params}, inputs).mean

  params = state.params['actor']
  action = np.asarray(act(params, inputs), np.float64)
  mixed = np.concatenate([feat, guidance[other]], -1)
  mixed = np.asarray(act(params, mixed), np.float64)
  return {
    'shuffled': float(np.abs(mixed - action).mean()),
    'across_states': float(np.abs(action[other] - action).mean()),
    'dead_units': float((guidance == 0).all(0).mean()),
  }
