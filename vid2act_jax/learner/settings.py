"""Hyperparameters of an agent, as plain records."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class LossScales:
  """The weight of each loss in the total loss of the model, by its name."""

  kl: float
  image: float
  reward: float
  discount: float
  distillation: float
  vae: float

  @property
  def base_kl(self) -> float:
    """The KL of a stacked student's base has the weight of the student's."""
    return self.kl

  def apply(self, losses: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Scales losses by name: {'kl': ...} -> {'kl_loss': ...}."""
    return {
      f'{name}_loss': getattr(self, name) * loss
      for name, loss in losses.items()
    }


def total(losses: Mapping[str, jax.Array]) -> jax.Array:
  """The sum of losses, in their order."""
  return sum(losses.values(), start=jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """Hyperparameters of the model's losses."""

  scales: LossScales
  kl_balance: float  # weight of the KL's term that trains the prior
  kl_free: float  # nats


@dataclasses.dataclass(frozen=True)
class TransferSettings:
  """Sizes and hyperparameters of the action VAE."""

  vae_hidden: int
  guidance_size: int
  vae_kl: float  # weight of the VAE's KL relative to its error


@dataclasses.dataclass(frozen=True)
class GeneratorFit:
  """Training of a generator on a finished teacher."""

  steps: int
  batch: int  # frames of each source
  kl: float  # weight of the VAE's KL relative to its error
  optimizer: optax.GradientTransformation


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


@dataclasses.dataclass(frozen=True)
class Settings:
  """All hyperparameters of an agent."""

  loss: LossSettings
  transfer: TransferSettings
  behavior: BehaviorSettings
  # Updates of the whole training, which the shares of a variant refer to; 0:
  # not known.
  num_updates: int = 0
