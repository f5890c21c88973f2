"""Modules that transfer knowledge from the frozen teacher to the student.

Domain-selective distillation and generative action replay of Vid2Act (arXiv
2306.03360).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists
from vid2act_jax.nets.dense import Dense
from vid2act_jax.rng import Rng
from vid2act_jax.types import Normal


class Similarity(nn.Module):
  """The similarity of a teacher's state to the student's, as a logit."""

  dtype: str = 'float32'  # computed in

  @nn.compact
  def __call__(self, teacher: jax.Array, student: jax.Array) -> jax.Array:
    """[N, ..., F_teacher], [..., F_student] -> logits [N, ...]."""
    student = jnp.broadcast_to(
      student, (*teacher.shape[:-1], student.shape[-1])
    )
    pair = jnp.concatenate([teacher, student], -1)
    dense = Dense(1, self.dtype, name='dense')
    return dense(pair)[..., 0].astype(jnp.float32)


class ActionVAE(nn.Module):
  """Conditional VAE over the actions of the source domains.

  The decoder's last hidden layer is the guidance for the policy.
  """

  hidden: int
  guidance_dim: int
  action_dim: int
  num_domains: int
  dtype: str = 'float32'  # computed in; the outputs are float32

  @property
  def latent_dim(self) -> int:
    """Size of the VAE's latent vector."""
    return 2 * self.action_dim

  def latent_noise(
    self, rng: Rng, shape: tuple[int, ...], row_axis: int | None = None
  ) -> jax.Array:
    """The noise for [*shape] latent vectors; `row_axis`: see `Rng.normal`."""
    return rng.normal((*shape, self.latent_dim), row_axis)

  def setup(self):
    dense = lambda features: Dense(features, self.dtype)
    self.e1, self.e2 = dense(self.hidden), dense(self.hidden)
    self.mean, self.log_std = dense(self.latent_dim), dense(self.latent_dim)
    self.d1, self.d2 = dense(self.hidden), dense(self.guidance_dim)
    self.d3 = dense(self.action_dim)

  def encode(self, feat, action, label) -> Normal:
    """feat [..., F], action [..., A], label i32 [...] -> latent Normal."""
    domain = jax.nn.one_hot(label, self.num_domains)
    x = jnp.concatenate([feat, action, domain], -1)
    x = nn.relu(self.e2(nn.relu(self.e1(x))))
    mean, log_std = self.mean(x), self.log_std(x)
    log_std = jnp.clip(log_std.astype(jnp.float32), -4, 15)
    return Normal(mean.astype(jnp.float32), jnp.exp(log_std))

  def guidance(self, feat, latent, label) -> jax.Array:
    """feat [..., F], latent [..., 2A], label i32 [...] -> [..., guidance]."""
    domain = jax.nn.one_hot(label, self.num_domains)
    x = jnp.concatenate([feat, latent, domain], -1)
    return nn.relu(self.d2(nn.relu(self.d1(x)))).astype(jnp.float32)

  def decode(self, guidance: jax.Array) -> jax.Array:
    """[..., guidance] -> actions [..., A] in [-1, 1]."""
    return jnp.tanh(self.d3(guidance).astype(jnp.float32))

  def __call__(self, feat, action, label, noise):
    """Reconstructs actions: -> (actions [..., A], latent Normal)."""
    latent = self.encode(feat, action, label)
    guidance = self.guidance(feat, dists.sample(latent, noise), label)
    return self.decode(guidance), latent
