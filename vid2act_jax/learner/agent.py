"""Agents: networks, optimizers, hyperparameters, and their pure steps.

An `Agent` learns a new task. It is immutable and holds no arrays: all training
state is in the `LearnerState` that its steps take and return.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vid2act_jax.learner import (
  encode,
  finetune,
  open_loop,
  policy,
  teachers,
  warm_start,
)
from vid2act_jax.learner.settings import Settings
from vid2act_jax.learner.variants import Variant
from vid2act_jax.nets.heads import MLP, Actor, ScalarHead
from vid2act_jax.nets.transfer import ActionVAE, Similarity
from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.rng import NoiseFns, Rng
from vid2act_jax.types import (
  Batch,
  Carry,
  FinetuneBatch,
  LearnerState,
  Metrics,
  Params,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
  """Learns a task online; its variant says what it uses of the source tasks."""

  student: WorldModel
  action_dim: int
  pretrained: WorldModel | None  # None: the sources are not used
  source_action_dims: tuple[int, ...]
  settings: Settings
  optimizers: dict[str, optax.GradientTransformation]
  noise_fns: NoiseFns = NoiseFns()
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
    assert self.pretrained is not None
    return dataclasses.replace(self.pretrained, num_domains=0)

  @property
  def uses_action_replay(self) -> bool:
    """Whether the policy reads the guidance of an action VAE."""
    return bool(self.teacher) and self.variant.replay

  @property
  def num_domains(self) -> int:
    """N; 0 without a teacher."""
    return self.teacher.num_domains if self.teacher else 0

  @property
  def source_mask(self) -> np.ndarray:
    """f32 [N, A_teacher]: 1 for the action dimensions that a domain has."""
    assert self.teacher is not None
    return teachers.action_mask(
      self.source_action_dims, self.teacher.action_dim
    )

  @property
  def similarity(self) -> Similarity:
    """The network for the logits of the similarity weights."""
    return Similarity(self.student.compute.dtype)

  @property
  def distill(self) -> MLP:
    """A linear map from teacher to student features."""
    return MLP(0, 0, self.student.feat_dim, self.student.compute.dtype)

  @property
  def vae(self) -> ActionVAE:
    """The VAE of the source actions."""
    assert self.teacher is not None
    return ActionVAE(
      self.settings.transfer.vae_hidden,
      self.settings.transfer.guidance,
      self.teacher.action_dim,
      self.num_domains,
      self.student.compute.dtype,
    )

  @property
  def actor(self) -> Actor:
    """The policy network on [s, guidance], or s without action replay."""
    layers, units = self.settings.behavior.actor_layers, self._units
    return Actor(layers, units, self.action_dim, self.student.compute.dtype)

  @property
  def critic(self) -> ScalarHead:
    """The value network on s."""
    layers, units = self.settings.behavior.critic_layers, self._units
    return ScalarHead(layers, units, self.student.compute.dtype)

  @property
  def _units(self):
    return self.student.sizes.units

  def rng(self, key: jax.Array, axis_name: str | None = None) -> Rng:
    """A source of this agent's noise.

    Args:
      key: the same on every device.
      axis_name: the mapped axis that rows are split over, if any.
    """
    return Rng(key, axis_name, self.noise_fns)

  def init(self, key: jax.Array, teacher: Params | None = None) -> LearnerState:
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
      assert teacher is not None
      frozen = {k: teacher[k] for k in ('encoder', 'rssm')}
      model['transfer'] = self._init_transfer(keys[1:4], feat)
    actor_inputs = feat
    if self.uses_action_replay:
      guidance = jnp.zeros((1, self.settings.transfer.guidance))
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
      assert self.pretrained is not None
      world = warm_start.start_from(
        self.student, world, self.pretrained, teacher
      )
    if not self.base:
      return {'world_model': world}
    assert self.pretrained is not None
    base = self.base.init(jax.random.fold_in(key, 1))
    base = {k: base[k] for k in ('encoder', 'rssm')}
    base = warm_start.start_from(self.base, base, self.pretrained, teacher)
    return {'world_model': world, 'base': base}

  def _init_transfer(self, keys, feat):
    assert self.teacher is not None
    teacher = jnp.zeros((self.num_domains, 1, self.teacher.feat_dim))
    params = {'distill': self.distill.init(keys[1], teacher)['params']}
    if self.variant.has_similarity_net:
      similarity = self.similarity.init(keys[0], teacher, feat)
      params['similarity'] = similarity['params']
    if self.uses_action_replay:
      action = jnp.zeros((1, self.vae.action_dim))
      noise = jnp.zeros((1, self.vae.latent_dim))
      label = jnp.zeros(1, int)
      vae = self.vae.init(keys[2], feat, action, label, noise)
      params['vae'] = vae['params']
    return params

  def finetune_step(
    self,
    state: LearnerState,
    batch: FinetuneBatch,
    key: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[LearnerState, Metrics]:
    """One update; see `vid2act_jax.learner.finetune.finetune_step`."""
    return finetune.finetune_step(self, state, batch, key, axis_name)

  def embed_frames(
    self, teacher: Params, image: jax.Array, label: jax.Array
  ) -> jax.Array:
    """The teacher's embeddings of frames, for `FinetuneBatch`.

    Args:
      teacher: its parameters.
      image: u8 [M, 64, 64, 3].
      label: i32 [K], domains.

    Returns:
      f32 [M, K, E].
    """
    assert self.teacher is not None
    return teachers.embed_frames(self.teacher, teacher, image, label)

  def initial_carry(self, num: int) -> Carry:
    """The initial recurrent state of the policy in `num` environments."""
    return policy.initial_carry(self, num)

  def policy(
    self,
    state: LearnerState,
    carry: Carry,
    obs: Mapping[str, jax.Array],
    key: jax.Array,
    explore: bool,
  ) -> tuple[Carry, jax.Array, dict[str, jax.Array]]:
    """Selects actions; see `vid2act_jax.learner.policy.policy`."""
    return policy.policy(self, state, carry, obs, key, explore)

  def open_loop(
    self, state: LearnerState, batch: Batch, key: jax.Array
  ) -> jax.Array:
    """Open-loop videos; see `vid2act_jax.learner.open_loop.open_loop`."""
    model, rng, embed = state.params['model'], self.rng(key), None
    if self.base:
      crop = lambda x: x[: open_loop.ROWS, : open_loop.CONTEXT]
      context = jax.tree.map(crop, batch)
      embed, _ = encode.embed(self, model, context, rng.fold_in(1))
    return open_loop.open_loop(
      self.student, model['world_model'], batch, rng, embed=embed
    )
