"""Agents: networks, optimizers, hyperparameters, and their pure steps.

A `Pretrainer` trains the mixture teacher on the source datasets; an `Agent`
learns a new task. Both are immutable and hold no arrays: all training state is
in the `LearnerState` that their steps take and return.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vid2act_jax.learner import (
  encode,
  finetune,
  open_loop,
  policy,
  pretrain,
  teachers,
  warm_start,
)
from vid2act_jax.learner.noise import Draw
from vid2act_jax.learner.variants import Variant
from vid2act_jax.losses.world_model import Scales
from vid2act_jax.nets import heads, transfer
from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.types import LearnerState, Params


@dataclasses.dataclass(frozen=True)
class Draws:
  """Samplers of standard normal noise: (key, shape) -> array.

  Tests replace them with constants.
  """

  latent: Draw = jax.random.normal
  actor: Draw = jax.random.normal


@dataclasses.dataclass(frozen=True)
class ModelLoss:
  """Hyperparameters of the world model's loss."""

  scales: Scales
  kl_balance: float
  kl_free: float  # nats


@dataclasses.dataclass(frozen=True)
class TransferSettings:
  """Sizes and hyperparameters of distillation and action replay."""

  vae_hidden: int
  guidance: int
  importance_floor: float
  vae_kl: float


@dataclasses.dataclass(frozen=True)
class BehaviorSettings:
  """Sizes and hyperparameters of the actor-critic."""

  horizon: int  # imagined states per trajectory
  discount: float
  lambda_: float
  entropy: float
  slow_period: int  # updates between copies of the critic
  actor_layers: int
  critic_layers: int


def action_mask(dims: tuple[int, ...], width: int) -> np.ndarray:
  """f32 [N, width]: 1 for the action dimensions that a domain has."""
  return (np.arange(width) < np.array(dims)[:, None]).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrainer:
  """Trains the mixture teacher: one world model for N labelled domains."""

  teacher: WorldModel
  source_action_dims: tuple[int, ...]
  loss: ModelLoss
  optimizer: optax.GradientTransformation
  draws: Draws = Draws()

  @property
  def source_mask(self) -> np.ndarray:
    """f32 [N, A]: 1 for the action dimensions that a domain has."""
    return action_mask(self.source_action_dims, self.teacher.action_dim)

  def init(self, key: jax.Array) -> LearnerState:
    """Returns the initial state."""
    params = {'model': self.teacher.init(key)}
    opt = {'model': self.optimizer.init(params['model'])}
    return LearnerState(jnp.zeros((), jnp.int32), params, opt, {}, {})

  def pretrain_step(self, state, batch, key, axis_name=None):
    """One update; see `vid2act_jax.learner.pretrain.step`."""
    return pretrain.step(self, state, batch, key, axis_name)

  def open_loop(self, state, batch, key):
    """Open-loop videos; see `vid2act_jax.learner.open_loop.open_loop`."""
    each = -(-open_loop.ROWS // self.teacher.num_domains)
    batch = jax.tree.map(lambda x: x[:, :each], batch)
    rows, label = pretrain.flatten_domains(self, batch)
    params = state.params['model']
    draw = self.draws.latent
    return open_loop.open_loop(self.teacher, params, draw, rows, key, label)


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
  """Learns a task online; its variant says what it uses of the source tasks."""

  student: WorldModel
  action_dim: int
  pretrained: WorldModel | None  # None: the sources are not used
  source_action_dims: tuple[int, ...]
  loss: ModelLoss
  transfer: TransferSettings
  behavior: BehaviorSettings
  optimizers: dict[str, optax.GradientTransformation]
  draws: Draws = Draws()
  variant: Variant = Variant()

  @property
  def teacher(self) -> WorldModel | None:
    """The pretrained model, if the variant uses it as a frozen teacher."""
    return self.pretrained if self.variant.teacher else None

  @property
  def base(self) -> WorldModel | None:
    """The action-free model whose states a stacked student reads."""
    if self.variant.start != 'stacked':
      return None
    return dataclasses.replace(self.pretrained, num_domains=0)

  @property
  def replays(self) -> bool:
    """Whether the policy reads the guidance of an action VAE."""
    return bool(self.teacher) and self.variant.replay

  @property
  def num_domains(self) -> int:
    """N; 0 without a teacher."""
    return self.teacher.num_domains if self.teacher else 0

  @property
  def source_mask(self) -> np.ndarray:
    """f32 [N, A_teacher]: 1 for the action dimensions that a domain has."""
    return action_mask(self.source_action_dims, self.teacher.action_dim)

  @property
  def similarity(self) -> transfer.Similarity:
    """The network for the logits of the similarity weights."""
    return transfer.Similarity(self.student.dtype)

  @property
  def distill(self) -> heads.MLP:
    """A linear map from teacher to student features."""
    return heads.MLP(0, 0, self.student.feat_dim, self.student.dtype)

  @property
  def vae(self) -> transfer.ActionVAE:
    """The VAE of the source actions."""
    t = self.transfer
    return transfer.ActionVAE(
      t.vae_hidden,
      t.guidance,
      self.teacher.action_dim,
      self.num_domains,
      self.student.dtype,
    )

  @property
  def actor(self) -> heads.Actor:
    """The policy network on [s, guidance], or s without action replay."""
    layers, units = self.behavior.actor_layers, self.student.sizes.units
    return heads.Actor(layers, units, self.action_dim, self.student.dtype)

  @property
  def critic(self) -> heads.ScalarHead:
    """The value network on s."""
    layers, units = self.behavior.critic_layers, self.student.sizes.units
    return heads.ScalarHead(layers, units, self.student.dtype)

  def init(self, key: jax.Array, teacher: Params | None = None):
    """Returns the initial state.

    Args:
      key: for the parameters.
      teacher: parameters of the pretrained model, required if the variant uses
        one. The state keeps `encoder` and `rssm` of a frozen teacher.
    """
    keys = jax.random.split(key, 6)
    feat = jnp.zeros((1, self.student.feat_dim))
    model = {**self._init_world(keys[0], teacher), 'transfer': {}}
    frozen = {}
    if self.teacher:
      frozen = {k: teacher[k] for k in ('encoder', 'rssm')}
      model['transfer'] = self._init_transfer(keys[1:4], feat)
    actor_inputs = feat
    if self.replays:
      guidance = jnp.zeros((1, self.transfer.guidance))
      actor_inputs = jnp.concatenate([feat, guidance], -1)
    critic = self.critic.init(keys[5], feat)['params']
    params = {
      'model': model,
      'actor': self.actor.init(keys[4], actor_inputs)['params'],
      'critic': critic,
    }
    opt = {k: self.optimizers[k].init(v) for k, v in params.items()}
    slow = jax.tree.map(jnp.copy, critic)  # Donated buffers must not alias.
    zero = jnp.zeros((), jnp.int32)
    return LearnerState(zero, params, opt, slow, frozen)

  def _init_world(self, key, teacher):
    """Parameters {world_model}, and {base} of a stacked student."""
    world = self.student.init(key)
    if self.variant.start == 'teacher':
      world = warm_start.start_from(
        self.student, world, self.pretrained, teacher
      )
    if not self.base:
      return {'world_model': world}
    base = self.base.init(jax.random.fold_in(key, 1))
    base = {k: base[k] for k in ('encoder', 'rssm')}
    base = warm_start.start_from(self.base, base, self.pretrained, teacher)
    return {'world_model': world, 'base': base}

  def _init_transfer(self, keys, feat):
    teacher = jnp.zeros((self.num_domains, 1, self.teacher.feat_dim))
    params = {'distill': self.distill.init(keys[1], teacher)['params']}
    if self.variant.has_similarity_net:
      similarity = self.similarity.init(keys[0], teacher, feat)
      params['similarity'] = similarity['params']
    if self.replays:
      action = jnp.zeros((1, self.vae.action_dim))
      noise = jnp.zeros((1, self.vae.latent_dim))
      label = jnp.zeros(1, int)
      vae = self.vae.init(keys[2], feat, action, label, noise)
      params['vae'] = vae['params']
    return params

  def finetune_step(self, state, batch, key, axis_name=None):
    """One update; see `vid2act_jax.learner.finetune.step`."""
    return finetune.step(self, state, batch, key, axis_name)

  def embed_frames(self, teacher: Params, image: jax.Array, label: jax.Array):
    """The teacher's embeddings of frames, for `FinetuneBatch`.

    Args:
      teacher: its parameters.
      image: u8 [M, 64, 64, 3].
      label: i32 [K], domains.

    Returns:
      f32 [M, K, E].
    """
    return teachers.embed_frames(self.teacher, teacher, image, label)

  def initial_carry(self, num: int):
    """The initial recurrent state of the policy in `num` environments."""
    return policy.initial_carry(self, num)

  def policy(self, state, carry, obs, key, explore: bool):
    """Selects actions; see `vid2act_jax.learner.policy.policy`."""
    return policy.policy(self, state, carry, obs, key, explore)

  def open_loop(self, state, batch, key):
    """Open-loop videos; see `vid2act_jax.learner.open_loop.open_loop`."""
    model, embed = state.params['model'], None
    if self.base:
      crop = lambda x: x[: open_loop.ROWS, : open_loop.CONTEXT]
      context = jax.tree.map(crop, batch)
      embed, _ = encode.embed(self, model, context, jax.random.fold_in(key, 1))
    return open_loop.open_loop(
      self.student,
      model['world_model'],
      self.draws.latent,
      batch,
      key,
      embed=embed,
    )
