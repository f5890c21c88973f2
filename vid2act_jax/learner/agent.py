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
  pretrain,
  teachers,
  warm_start,
)
from vid2act_jax.learner.precision import with_precision
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

_FROZEN = ('encoder', 'rssm')  # Groups of a teacher that the state keeps.


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
  def precision(self) -> str:
    """Of the matrix products of all steps; see `precision.PRECISIONS`."""
    return self.student.compute.precision

  @property
  def teacher(self) -> WorldModel | None:
    """The pretrained model, if the variant uses it as a frozen teacher."""
    return self.pretrained if self.variant.teacher else None

  @property
  def base(self) -> WorldModel | None:
    """The pretrained model whose states a stacked student reads."""
    if self.variant.start != 'stacked':
      return None
    assert self.pretrained is not None
    return dataclasses.replace(self.pretrained, num_domains=0)

  @property
  def trains_generator(self) -> bool:
    """Whether updates need batches of the sources, for the action VAE."""
    return self.variant.trains_generator

  @property
  def jump_starts_prefill(self) -> bool:
    """Whether generated actions are of use before the first update."""
    return self.variant.jump_starts_prefill

  @property
  def reads_guidance(self) -> bool:
    """Whether the policy reads the guidance of the action VAE."""
    return self.variant.guides_by('feature')

  @property
  def has_base_action(self) -> bool:
    """Whether the policy corrects the action of the generator."""
    return self.variant.guides_by('residual')

  @property
  def num_domains(self) -> int:
    """N; 0 without a teacher."""
    return len(self.source_action_dims) if self.teacher else 0

  @property
  def source_mask(self) -> np.ndarray:
    """f32 [N, A_max]: 1 for the action dimensions that a domain has."""
    width = max(self.source_action_dims)
    return teachers.action_mask(self.source_action_dims, width)

  @property
  def teacher_mask(self) -> np.ndarray:
    """f32 [N, A_teacher]: 1 for the actions that the teacher reads."""
    assert self.teacher is not None
    return self.source_mask[:, : self.teacher.action_dim]

  @property
  def similarity(self) -> Similarity:
    """The network for the logits of the similarity weights."""
    return Similarity(self.student.compute.dtype)

  @property
  def distill(self) -> MLP:
    """A linear map from teacher to student features."""
    return MLP(0, 0, self.student.feat_dim, self.student.compute.dtype)

  @property
  def predict_teachers(self) -> MLP:
    """A linear map from the student's features to those of all teachers."""
    assert self.teacher is not None
    size = self.num_domains * self.teacher.feat_dim
    return MLP(0, 0, size, self.student.compute.dtype)

  @property
  def vae(self) -> ActionVAE:
    """The VAE of the source actions."""
    return pretrain.action_vae(
      self.settings.transfer,
      self.source_action_dims,
      self.student.compute.dtype,
    )

  @property
  def actor(self) -> Actor:
    """The policy network on `transfer.actor_input`."""
    layers, units = self.settings.behavior.actor_layers, self._units
    dtype, residual = self.student.compute.dtype, self.has_base_action
    return Actor(layers, units, self.action_dim, dtype, residual)

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
        one; of separate teachers from `teachers.stack_separate`. The state
        has copies of `encoder` and `rssm` of a frozen teacher, so that these
        arrays stay valid when it is donated. A pretrained generator is in
        `generator`.
    """
    keys = jax.random.split(key, 6)
    feat = jnp.zeros((1, self.student.feat_dim))
    model = {**self._init_world(keys[0], teacher), 'transfer': {}}
    frozen = {}
    if self.teacher:
      assert teacher is not None
      # Donated buffers must not be the caller's.
      frozen = {k: jax.tree.map(jnp.copy, teacher[k]) for k in _FROZEN}
      model['transfer'] = self._init_transfer(keys[1:4], feat, teacher)
    size = self.student.feat_dim
    if self.reads_guidance:
      size += self.settings.transfer.guidance_size
    if self.has_base_action:
      size += self.action_dim
    actor_inputs = jnp.zeros((1, size))
    critic = self.critic.init(keys[5], feat)['params']
    params = {
      'model': model,
      'actor': self.actor.init(keys[4], actor_inputs)['params'],
      'critic': critic,
    }
    opt = {k: self.optimizers[k].init(v) for k, v in params.items()}
    slow = jax.tree.map(jnp.copy, critic)  # Donated buffers must not alias.
    zero, similarity = jnp.zeros((), jnp.int32), None
    rehearsal = self.variant.rehearsal
    if rehearsal.share and rehearsal.domains == 'selected':
      # With the dtype: a weakly typed array would compile the step twice.
      num = self.num_domains
      similarity = jnp.full(num, 1 / num, jnp.float32)
    return LearnerState(zero, params, opt, slow, frozen, similarity)

  def init_random(self, key: jax.Array) -> LearnerState:
    """Like `init`, with random parameters in place of pretrained ones."""
    if not self.pretrained:
      return self.init(key)
    teacher = self.pretrained.init(key)
    if self.variant.teachers == 'separate':
      stack = lambda x: jnp.stack([x] * self.num_domains)
      teacher = jax.tree.map(stack, teacher)
    if self.variant.generator.pretrained:
      feat = jnp.zeros((1, self.pretrained.feat_dim))
      teacher['generator'] = pretrain.init_vae(self.vae, key, feat)
    return self.init(key, teacher)

  def _init_world(self, key, teacher):
    """Parameters {world_model}, and {base} of a stacked student."""
    world = self.student.init(key)
    if self.variant.start == 'teacher':
      assert self.pretrained is not None
      world = warm_start.start_from(world, self.pretrained, teacher)
    if not self.base:
      return {'world_model': world}
    assert self.pretrained is not None
    base = self.base.init(jax.random.fold_in(key, 1))
    base = {k: base[k] for k in ('encoder', 'rssm')}
    base = warm_start.start_from(base, self.pretrained, teacher)
    return {'world_model': world, 'base': base}

  def _init_transfer(self, keys, feat, frozen):
    assert self.teacher is not None
    teacher = jnp.zeros((self.num_domains, 1, self.teacher.feat_dim))
    inputs = feat
    if self.variant.distillation.direction == 'to_teacher':
      inputs = teacher[0]
      predict = self.predict_teachers.init(keys[1], feat)
      params = {'predict_teachers': predict['params']}
    else:
      params = {'distill': self.distill.init(keys[1], teacher)['params']}
    if self.variant.has_similarity_net:
      similarity = self.similarity.init(keys[0], teacher, feat)
      params['similarity'] = similarity['params']
    if not self.variant.generates_actions:
      return params
    if self.variant.generator.pretrained:
      # Donated buffers must not alias.
      params['vae'] = jax.tree.map(jnp.array, frozen['generator'])
    else:
      params['vae'] = pretrain.init_vae(self.vae, keys[2], inputs)
    return params

  @with_precision
  def finetune_step(
    self,
    state: LearnerState,
    batch: FinetuneBatch,
    key: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[LearnerState, Metrics]:
    """One update; see `vid2act_jax.learner.finetune.finetune_step`."""
    return finetune.finetune_step(self, state, batch, key, axis_name)

  @with_precision
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
    return teachers.embed_frames(self, teacher, image, label)

  def initial_carry(self, num: int) -> Carry:
    """The initial recurrent state of the policy in `num` environments."""
    return policy.initial_carry(self, num)

  @with_precision
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

  @with_precision
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
