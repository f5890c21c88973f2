"""Rehearsal: source sequences in the batch of the student's world model.

The student also learns the images and dynamics of source sequences, but not
their rewards, which are those of other tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.learner.teachers import action_mask, fit_actions
from vid2act_jax.learner.transfer import Demonstration
from vid2act_jax.types import Batch, FinetuneBatch, LearnerState

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent

_RATE = 0.01  # Of the running mean of the similarity weights.


class Rows(flax.struct.PyTreeNode):
  """The sequences of the student's world model: target, then sources."""

  batch: Batch  # [B + R, L, ...]
  # f32 [B + R], 1 where the rewards are those of the target task; None: all
  reward_mask: jax.Array | None = None
  domain: jax.Array | None = None  # i32 [R], of the source sequences


def select_domains(
  state: LearnerState, batch: FinetuneBatch, axis_name: str | None = None
) -> FinetuneBatch:
  """Selects the domains that the source sequences of an update come from.

  They are all domains in turn, or the most similar one.

  Args:
    state: the state before the update.
    batch: of this update.
    axis_name: the mapped axis that the rows are split over, if any.
  """
  if batch.rehearsal is None:
    return batch
  domains, num = batch.rehearsal.reward.shape[:2]
  total, row = num, jnp.arange(num)
  if axis_name:
    total = num * jax.lax.axis_size(axis_name)
    row += num * jax.lax.axis_index(axis_name)
  domain = (state.step * total + row) % domains
  if state.similarity is not None:
    domain = jnp.full(num, state.similarity.argmax())
  return batch.replace(rehearsal_domain=domain)


def join_rows(agent: Agent, batch: FinetuneBatch) -> Rows:
  """Appends the selected source sequences to those of the target.

  Args:
    agent: the networks.
    batch: from `select_domains`.
  """
  target, sources = batch.target, batch.rehearsal
  if sources is None:
    return Rows(target)
  domain = batch.rehearsal_domain
  assert domain is not None
  num, width = len(domain), sources.action.shape[-1]
  chosen = jax.tree.map(lambda x: x[domain, jnp.arange(num)], sources)
  masks = jnp.asarray(action_mask(agent.source_action_dims, width))
  everything = action_mask((agent.action_dim,), agent.action_dim)
  action = fit_actions(chosen.action * masks[domain][:, None], everything)[0]
  chosen = chosen.replace(action=action)
  size = len(target.reward)
  mask = (jnp.arange(size + num) < size).astype(jnp.float32)
  joined = jax.tree.map(lambda *xs: jnp.concatenate(xs), target, chosen)
  return Rows(joined, mask, domain)


def parts(batch: FinetuneBatch, each: int = 1) -> tuple[int, ...]:
  """`Rng.parts` of the joined rows, or of `each` states of every row."""
  if batch.rehearsal is None:
    return ()
  return len(batch.target.reward) * each, batch.rehearsal.reward.shape[1] * each


def join_labels(rows: Rows, label: jax.Array) -> jax.Array:
  """Appends the source sequences' own domains to labels [B, L]: [B + R, L]."""
  if rows.domain is None:
    return label
  shape = len(rows.domain), label.shape[1]
  domain = jnp.broadcast_to(rows.domain[:, None], shape)
  return jnp.concatenate([label, domain])


def join_demonstrations(
  agent: Agent, rows: Rows, demonstration: Demonstration
) -> Demonstration:
  """Appends the recorded actions of the source sequences: [B + R, L, ...].

  The action taken at a state is stored with the next one, so there is none for
  the last state. The weight of the others is 1.
  """
  if rows.domain is None:
    return demonstration
  num = len(rows.domain)
  action = jnp.roll(rows.batch.action[-num:], -1, 1)
  masks = jnp.asarray(action_mask(agent.source_action_dims, agent.action_dim))
  is_known = ~jnp.roll(rows.batch.is_first[-num:], -1, 1).at[:, -1].set(True)
  weight = masks[rows.domain][:, None] * is_known[..., None]
  recorded = Demonstration(action, weight)
  join = lambda *xs: jnp.concatenate(xs)
  return jax.tree.map(join, demonstration, recorded)


def update_similarity(
  state: LearnerState, similarity: jax.Array
) -> LearnerState:
  """Adds an update's mean similarity weights [N] to their running mean."""
  mean = state.similarity
  assert mean is not None
  return state.replace(similarity=mean + _RATE * (similarity - mean))
