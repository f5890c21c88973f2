"""Diagnostics of a pretrained teacher, on sequences of frames.

B sequences, L frames, N domains, A action size. `owner` is the `Pretrainer` or
the `Agent` of the teacher, `params` are the teacher's parameters, `batch` is
[B, L, ...] in NumPy arrays, with actions of any size, and `key` is for the
noise, which is the same under every label.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.learner import diagnostics, open_loop, teachers
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import Rng
from vid2act_jax.types import Batch, Params


def predictions(
  owner, params: Params, batch: Batch, key: jax.Array
) -> list[list[float]]:
  """Returns `diagnostics.prediction` for the teacher under each label.

  `params` with the decoder.
  """

  def errors(domain):
    run = lambda *xs: _frame_errors(_open_loop(owner, params, *xs, domain))
    return diagnostics.in_batches(run, batch, key)

  num = owner.teacher.num_domains
  return [errors(i).mean(0, np.float64).tolist() for i in range(num)]


def predicted_frames(
  owner, params: Params, batch: Batch, key: jax.Array, domain: int
) -> np.ndarray:
  """Returns the frames of `predictions`, reconstructed within the context.

  f32 [B, L, 64, 64, 3] in 0..1.
  """
  run = lambda *xs: _open_loop(owner, params, *xs, domain)
  image = diagnostics.in_batches(run, batch, key)
  return np.split(image, 3, 2)[1].clip(0, 1)


def kl(owner, params: Params, batch: Batch, key: jax.Array) -> list[float]:
  """Returns by label how much frames surprise the teacher, nats a frame.

  The mean KL of posterior to prior after the context: how far the state that
  has seen a frame is from the one predicted for it.
  """

  def mean(domain):
    _, each = states(owner, params, batch, key, domain)
    return float(each[:, open_loop.CONTEXT :].mean(dtype=np.float64))

  return [mean(domain) for domain in range(owner.teacher.num_domains)]


def states(
  owner, params: Params, batch: Batch, key: jax.Array, domain: int
) -> tuple[np.ndarray, np.ndarray]:
  """Observes sequences under a label.

  Returns:
    Features, f32 [B, L, F], and the KL of posterior to prior, f32 [B, L].
  """
  run = lambda *xs: _observe(owner, params, *xs, domain)
  return diagnostics.in_batches(run, batch, key)


def decode_actions(
  fitted: tuple[np.ndarray, np.ndarray], tested: tuple[np.ndarray, np.ndarray]
) -> dict:
  """Returns how well a linear map of states gives the actions taken at them.

  Args:
    fitted, tested: of different episodes, features f32 [B, L, F] and actions
      f32 [B, L, A], which preceded the frames. Frames of the context count for
      the last of them alone.

  Returns:
    error: mean squared error of an action dimension on the tested episodes;
    variance: that of always predicting their mean; r2: 1 - error / variance,
    None if all their actions are equal.
  """
  inputs, targets = zip(*(_pairs(*x) for x in (fitted, tested)), strict=True)
  guess = diagnostics.ridge(inputs[0], targets[0], inputs[1])
  error = float(np.square(guess - targets[1]).mean())
  variance = float(targets[1].var(0).mean())
  r2 = 1 - error / variance if variance else None
  return {'error': error, 'variance': variance, 'r2': r2}


def _pairs(feat, action):
  """States and the actions taken at them, f64 [M, F] and [M, A]."""
  parts = feat[:, open_loop.CONTEXT - 1 : -1], action[:, open_loop.CONTEXT :]
  return [x.reshape(-1, x.shape[-1]).astype(np.float64) for x in parts]


# The owner is hashed by identity: one program for all datasets and labels.
@functools.partial(jax.jit, static_argnums=0)
def _open_loop(owner, params, batch, key, domain):
  rows, label = _as_domain(owner, batch, domain)
  rng = Rng(key, noise_fns=owner.noise_fns)
  return open_loop.open_loop(owner.teacher, params, rows, rng, label)


_frame_errors = jax.jit(diagnostics.frame_errors)


@functools.partial(jax.jit, static_argnums=0)
def _observe(owner, params, batch, key, domain):
  model, (rows, label) = owner.teacher, _as_domain(owner, batch, domain)
  rng = Rng(key, noise_fns=owner.noise_fns)
  latent, post = model.observe(
    params,
    model.embed(params, rows.image, label),
    rows.action,
    rows.is_first,
    model.latent_noise(rng, rows.reward.shape),
    label,
  )
  return feature(latent), dists.kl(post, model.prior(params, latent.deter))


def _as_domain(owner, batch, domain):
  """Returns rows with the action space of a domain, and their labels."""
  action = teachers.fit_actions(batch.action, owner.teacher_mask)[domain]
  return batch.replace(action=action), jnp.full(len(action), domain)
