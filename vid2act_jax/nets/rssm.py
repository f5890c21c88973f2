"""Recurrent state-space model with Gaussian latents, one step at a time.

What does not depend on the recurrent state (projections of embeddings, actions
and labels) is a method of its own, so that a scan over time can have it
computed for all steps at once.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists
from vid2act_jax.types import Latent, Normal

_kernel_init = nn.initializers.glorot_uniform()


class SplitDense(nn.Module):
  """Dense over concatenated parts whose products can be taken apart."""

  features: int
  parts: tuple[int, ...]

  def setup(self):
    shape = (sum(self.parts), self.features)
    self.kernel = self.param('kernel', _kernel_init, shape)
    zeros = nn.initializers.zeros_init()
    self.bias = self.param('bias', zeros, (self.features,))

  def __call__(self, index: int, x: jax.Array) -> jax.Array:
    """Part `index`'s share [..., features]: of a vector, or of an i32 label."""
    start = sum(self.parts[:index])
    kernel = self.kernel[start : start + self.parts[index]]
    if jnp.issubdtype(x.dtype, jnp.integer):
      return kernel[x]
    return x @ kernel


class GRUCell(nn.Module):
  """GRU with one LayerNorm over all pre-activations, update bias -1."""

  deter: int

  @nn.compact
  def __call__(self, x: jax.Array, h: jax.Array) -> jax.Array:
    """x [..., I], h [..., deter] -> the next h."""
    y = nn.Dense(3 * self.deter, kernel_init=_kernel_init, name='dense')(
      jnp.concatenate([x, h], -1)
    )
    y = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name='norm')(y)
    reset, candidate, update = jnp.split(y, 3, -1)
    candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
    update = nn.sigmoid(update - 1)
    return update * candidate + (1 - update) * h


class RSSM(nn.Module):
  """Prior and posterior over the next latent state.

  With `num_domains` > 0 a domain label joins [z, a] in the recurrence.
  """

  stoch: int
  deter: int
  hidden: int
  embed_dim: int
  action_dim: int
  num_domains: int = 0

  def setup(self):
    parts = (self.stoch, self.action_dim)
    if self.num_domains:
      parts += (self.num_domains,)
    self.inp = SplitDense(self.hidden, parts)
    self.cell = GRUCell(self.deter)
    self.prior_hidden = nn.Dense(self.hidden, kernel_init=_kernel_init)
    self.prior_out = nn.Dense(2 * self.stoch, kernel_init=_kernel_init)
    self.post_hidden = SplitDense(self.hidden, (self.deter, self.embed_dim))
    self.post_out = nn.Dense(2 * self.stoch, kernel_init=_kernel_init)

  def project_action(self, action: jax.Array, label: jax.Array | None):
    """The recurrence's input but for z: [..., A] (and i32 [...]) -> hidden."""
    out = self.inp(1, action) + self.inp.bias
    return out + self.inp(2, label) if self.num_domains else out

  def project_embed(self, embed: jax.Array) -> jax.Array:
    """The posterior's input but for h: [..., E] -> [..., hidden]."""
    return self.post_hidden(1, embed) + self.post_hidden.bias

  def advance(self, latent: Latent, projected_action: jax.Array) -> jax.Array:
    """The next deterministic state [..., deter]."""
    x = nn.elu(self.inp(0, latent.stoch) + projected_action)
    return self.cell(x, latent.deter)

  def prior(self, deter: jax.Array) -> Normal:
    """p(z | h), before the frame is seen: Normal over [..., stoch]."""
    return dists.from_stats(self.prior_out(nn.elu(self.prior_hidden(deter))))

  def posterior(self, deter: jax.Array, projected_embed: jax.Array) -> Normal:
    """q(z | h, frame): Normal over [..., stoch]."""
    hidden = nn.elu(self.post_hidden(0, deter) + projected_embed)
    return dists.from_stats(self.post_out(hidden))

  def __call__(self, embed, action, label):
    """One step from the zero state through every layer, to initialise."""
    rows = embed.shape[:-1]
    zero = Latent(
      jnp.zeros((*rows, self.stoch)), jnp.zeros((*rows, self.deter))
    )
    deter = self.advance(zero, self.project_action(action, label))
    return self.prior(deter), self.posterior(deter, self.project_embed(embed))
