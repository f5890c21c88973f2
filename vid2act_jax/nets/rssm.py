"""Recurrent state-space model with Gaussian latents, one step at a time.

The projections of embeddings, actions and labels do not depend on the recurrent
state. They are separate methods, so that they can be computed for all steps at
once, outside of a scan over time.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists
from vid2act_jax.nets.dense import Dense, SplitDense
from vid2act_jax.ops.elu import elu
from vid2act_jax.ops.gru import gru_update
from vid2act_jax.types import Latent, Normal, Params


class GRUCell(nn.Module):
  """GRU with one LayerNorm over all pre-activations, update bias -1.

  The state is float32, whatever dtype the products are computed in.
  """

  deter: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array, h: jax.Array) -> jax.Array:
    """x [..., I], h [..., deter] -> the next h."""
    joint = jnp.concatenate([x.astype(self.dtype), h.astype(self.dtype)], -1)
    y = Dense(3 * self.deter, self.dtype, name='dense')(joint)
    scale, bias = _NormParams(3 * self.deter, name='norm')()
    return gru_update(y, h, scale, bias)


class _NormParams(nn.Module):
  """The parameters of a layer norm."""

  features: int

  @nn.compact
  def __call__(self):
    shape = (self.features,)
    scale = self.param('scale', nn.initializers.ones_init(), shape)
    return scale, self.param('bias', nn.initializers.zeros_init(), shape)


class RSSM(nn.Module):
  """Prior and posterior over the next latent state.

  With `num_domains` > 0 the recurrence reads [z, a, domain label].
  """

  stoch: int
  deter: int
  hidden: int
  embed_dim: int
  action_dim: int
  num_domains: int = 0
  dtype: str = 'float32'  # computed in; states and statistics are float32

  def setup(self):
    parts: tuple[int, ...] = (self.stoch, self.action_dim)
    if self.num_domains:
      parts += (self.num_domains,)

    dense = lambda features: Dense(features, self.dtype)
    self.inp = SplitDense(self.hidden, parts, self.dtype)
    self.cell = GRUCell(self.deter, self.dtype)
    self.prior_hidden = dense(self.hidden)
    self.prior_out = dense(2 * self.stoch)
    self.post_hidden = SplitDense(
      self.hidden, (self.deter, self.embed_dim), self.dtype
    )
    self.post_out = dense(2 * self.stoch)

  @property
  def recurrence(self) -> 'RSSM':
    """The module for `advance` and `posterior` alone.

    Equal for models that differ only in actions, embeddings and domains.
    """
    return self.clone(action_dim=0, embed_dim=0, num_domains=0)

  def recurrence_params(self, params: Params) -> Params:
    """Selects the parameters of `recurrence`."""
    parts = {'inp': self.stoch, 'post_hidden': self.deter}
    rows = lambda name: params[name]['kernel'][: parts[name]]
    split = {name: {**params[name], 'kernel': rows(name)} for name in parts}
    return {name: params[name] for name in ('cell', 'post_out')} | split

  def project_action(self, action: jax.Array, label: jax.Array | None):
    """The recurrence's input without z: [..., A] (, i32 [...]) -> hidden."""
    out = self.inp(1, action) + self.inp.bias
    if not self.num_domains:
      return out
    assert label is not None
    return out + self.inp(2, label)

  def project_embed(self, embed: jax.Array) -> jax.Array:
    """The posterior's input without h: [..., E] -> [..., hidden]."""
    return self.post_hidden(1, embed) + self.post_hidden.bias

  def advance(self, latent: Latent, projected_action: jax.Array) -> jax.Array:
    """The next deterministic state [..., deter]."""
    x = elu(self.inp(0, latent.stoch) + projected_action)
    return self.cell(x, latent.deter)

  def prior(self, deter: jax.Array) -> Normal:
    """p(z | h), without the frame: Normal over [..., stoch]."""
    stats = self.prior_out(elu(self.prior_hidden(deter)))
    return dists.from_stats(stats.astype(jnp.float32))

  def posterior(self, deter: jax.Array, projected_embed: jax.Array) -> Normal:
    """q(z | h, frame): Normal over [..., stoch]."""
    hidden = elu(self.post_hidden(0, deter) + projected_embed)
    return dists.from_stats(self.post_out(hidden).astype(jnp.float32))

  def __call__(self, embed, action, label):
    """One step from the zero state through every layer, for `init`."""
    rows = embed.shape[:-1]
    zero = Latent(
      jnp.zeros((*rows, self.stoch)), jnp.zeros((*rows, self.deter))
    )
    deter = self.advance(zero, self.project_action(action, label))
    return self.prior(deter), self.posterior(deter, self.project_embed(embed))
