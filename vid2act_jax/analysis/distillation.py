"""Measures of the distillation: features of the sources, and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vid2act_jax.learner import finetune
from vid2act_jax.types import Batch, FinetuneBatch

_RIDGE = 0.01  # Of the variance of standardised features.


def feature_similarity(
  agent, state, student: np.ndarray, teacher: np.ndarray
) -> list[dict]:
  """Returns what the weights depend on: how near and how informed sources are.

  Args:
    agent: an `Agent` with a teacher.
    state: its LearnerState.
    student: features, f32 [B, L, F], B at least 2.
    teacher: features, f32 [B, L, N, F_teacher].

  Returns:
    For each source its distance, the mean of D_i, which the weights are
    trained to minimise; and explained, the share of the variance of the
    student's features that a linear map of the source's features predicts,
    fitted to one half of the sequences and tested on the other.
  """
  params = state.params['model']['transfer']['distill']
  distilled = agent.distill.apply({'params': params}, teacher)
  distance = np.square(distilled - student[:, :, None]).mean((0, 1, 3))
  half = len(student) // 2
  flat = lambda x: x.reshape(-1, x.shape[-1]).astype(np.float64)
  fitted, tested = flat(student[:half]), flat(student[half:])
  spread = np.square(tested - fitted.mean(0)).mean()
  out = []
  for index, value in enumerate(np.asarray(distance)):
    inputs = flat(teacher[:half, :, index]), flat(teacher[half:, :, index])
    left = np.square(tested - _ridge(inputs[0], fitted, inputs[1])).mean()
    explained = 1 - left / spread if spread else 0.0
    out.append({'distance': float(value), 'explained': float(explained)})
  return out


def _ridge(x, y, inputs):
  """Ridge regression of y [M, F] on x [M, G], at inputs [K, G]: [K, F]."""
  center, scale = x.mean(0), x.std(0) + 1e-6
  x, inputs = (x - center) / scale, (inputs - center) / scale
  gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
  return inputs @ np.linalg.solve(gram, x.T @ (y - y.mean(0))) + y.mean(0)


def grad_norms(agent, state, batch: Batch, key: jax.Array) -> dict[str, float]:
  """Returns gradient norms of the student's world model, by loss.

  Args:
    agent: an `Agent` with a teacher.
    state: its LearnerState.
    batch: [B, L, ...] of the target, as in one update.
    key: for the noise.

  Returns:
    The global norms before clipping: distillation, of that loss alone, scaled
    as in the total; others, of all other losses together.
  """
  # The action VAE's losses give the student no gradient.
  variant = dataclasses.replace(agent.variant, replay=False)
  agent = dataclasses.replace(agent, variant=variant)

  @jax.jit
  def norms(state, batch, keys):
    model = state.params['model']

    def losses(student):
      params = {**model, 'world_model': student}
      data = FinetuneBatch(batch, None)
      total, (metrics, *_) = finetune.model_loss(
        agent, params, state.teacher, data, keys
      )
      own = metrics['distillation_loss']
      return {'distillation': own, 'others': total - own}

    values, vjp = jax.vjp(losses, model['world_model'])
    zero = dict.fromkeys(values, jnp.zeros(()))
    cotangents = {name: {**zero, name: jnp.ones(())} for name in values}
    return {name: optax.tree.norm(vjp(x)) for name, x in cotangents.items()}

  return jax.tree.map(float, norms(state, batch, jax.random.split(key)))
