"""How hard distillation pulls at the student, beside its other losses."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from vid2act_jax.learner import finetune
from vid2act_jax.types import Batch, FinetuneBatch, LearnerState


def measure(
  agent, state: LearnerState, batch: Batch, key: jax.Array
) -> dict[str, float]:
  """Gradients of the student's world model, by where they come from.

  Args:
    agent: an `Agent` with a teacher.
    state: its state.
    batch: [B, L, ...] of the target, as many as one update sees.
    key: for the noise.

  Returns:
    The global norms before clipping: distillation, of that loss alone, scaled
    as in the total; others, of all other losses together.
  """
  # The action VAE's losses give the student no gradient.
  variant = dataclasses.replace(agent.variant, replay=False)
  agent = dataclasses.replace(agent, variant=variant)

  @jax.jit
  def norms(state, batch, rngs):
    model = state.params['model']

    def losses(student):
      total, (told, *_) = finetune.model_loss(
        agent,
        {**model, 'world_model': student},
        state.teacher,
        FinetuneBatch(batch, None),
        rngs,
      )
      own = told['distillation_loss']
      return {'distillation': own, 'others': total - own}

    values, pull = jax.vjp(losses, model['world_model'])
    zero = dict.fromkeys(values, jnp.zeros(()))
    return {
      name: optax.tree.norm(pull({**zero, name: jnp.ones(())}))
      for name in values
    }

  return jax.tree.map(float, norms(state, batch, agent.rng(key).split()))
