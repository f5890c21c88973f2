"""What is wrong with a run, as far as its figures tell: sentences.

Each check returns what it found, or None. The thresholds are meant to catch
what is broken, not what is merely unusual.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vid2act_jax.analysis import curves, diagnosed, similarity
from vid2act_jax.analysis.reading import Run

# One domain takes all: with four, the others share 5%, less than the floor of
# distillation (0.1 each) gives them anyhow.
_ALL_WEIGHT = 0.95
_NO_ENTROPY = 0.1  # Of ln N: of four domains, what weights of 97% leave.
_COLLAPSED_FOR = 1 / 3  # Of the training, its end: early ones may recover.
_UNIFORM = 0.01  # Within this of 1/N throughout: nothing was ever chosen.
_CHOOSES = 0.9  # Of ln N: below, single states do prefer, in turn.
# A latent dimension with less carries nothing. As of `diagnose`'s active ones.
_NO_KL = 0.01  # Nats.
_GUESSING = 0.95  # Of the variance: no better than always the mean.
_KL_GROWTH = 10.0  # Against the median so far; noise makes 2.
_KL_HIGH = 100.0  # Nats; trained models have 1 to 20.
_KL_MEMORY = 5  # Points before a median means something.
_IGNORED = 0.05  # Of what another state changes in the action.
_SKIPPED_MANY = 0.01  # Of the updates.


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong, or worth a look."""

  name: str
  text: str


def find(run: Run) -> list[Finding]:
  """All that the checks find in a run."""
  checked = ((name, check(run)) for name, check in CHECKS.items())
  return [Finding(name, text) for name, text in checked if text]


def collapsed_weights(run: Run) -> str | None:
  """One source takes all of the similarity, to the end."""
  steps, by_source = similarity.weights(run)
  if len(by_source) < 2 or not len(steps) or similarity.is_given(run):
    return None
  late = _late(steps)
  for name, values in by_source.items():
    if (values[late] > _ALL_WEIGHT).all():
      return (
        f'the weight of {name} is above {_ALL_WEIGHT} during the last third:'
        ' the other sources play no part'
      )
  steps, values, _ = similarity.entropy(run)
  most = math.log(len(by_source))
  if len(steps) and (values[_late(steps)] < _NO_ENTROPY * most).all():
    return (
      f"the weights' entropy is below {_NO_ENTROPY:.0%} of ln N during the last"
      ' third: one source at a time takes all'
    )
  return None


def _late(steps):
  """Which points are of the end of the training."""
  late = steps >= steps[-1] - (steps[-1] - steps[0]) * _COLLAPSED_FOR
  return late if late.sum() >= 2 else np.ones(len(steps), bool)


def meaningless_weights(run: Run) -> str | None:
  """The similarity never preferred anything."""
  _, by_source = similarity.weights(run)
  if len(by_source) < 2 or similarity.is_given(run):
    return None
  values = np.stack(list(by_source.values()))
  if not values.size or abs(values - 1 / len(values)).max() > _UNIFORM:
    return None
  _, entropy, told = similarity.entropy(run)
  if told and np.median(entropy) < _CHOOSES * math.log(len(values)):
    return None
  return (
    f'all weights stayed within {_UNIFORM} of 1/N: the mean similarity tells'
    ' no source from another'
  )


def dead_vae(run: Run) -> str | None:
  """The action VAE codes nothing, or reproduces no action."""
  for source, told in diagnosed.vae(run).items():
    if told['active'] == 0:
      return (
        f'{source}: no latent dimension of the action VAE is active (KL above'
        f' {_NO_KL} nats)'
      )
    share = told['unexplained']
    if share is not None and share >= _GUESSING:
      return (
        f"{source}: the VAE's error is {share:.0%} of the actions' variance:"
        ' no better than guessing their mean'
      )
  _, kl = run.series('train/vae_kl')
  if len(kl) and np.median(kl[-curves.LAST :]) < _NO_KL:
    return f'train/vae_kl ended below {_NO_KL} nats: the latents carry nothing'
  return None


def exploding_kl(run: Run) -> str | None:
  """The world model's KL left the range of all that came before."""
  steps, kl = run.series('train/kl')
  for index, value in enumerate(kl):
    if value > _KL_HIGH:
      return f'train/kl is {value:.3g} nats at step {steps[index]:.0f}'
    # A free nat is no explosion, however small the median was.
    before = np.median(kl[:index]) if index >= _KL_MEMORY else math.inf
    if value > _KL_GROWTH * max(before, 1.0):
      return (
        f'train/kl is {value:.3g} nats at step {steps[index]:.0f}, more than'
        f' {_KL_GROWTH:.0f} times its median until then'
      )
  return None


def skipped_updates(run: Run) -> str | None:
  """Updates whose losses or gradients were not finite."""
  texts = []
  for stage in ('pretrain', 'finetune'):
    _, shares = run.series('train/skipped', stage)
    if len(shares) and shares.max() > 0:
      much = 'many: ' if shares.mean() > _SKIPPED_MANY else ''
      texts.append(f'{stage} {much}{shares.mean():.2%}')
  if not texts:
    return None
  return f'updates were not finite and were skipped ({", ".join(texts)})'


def ignored_guidance(run: Run) -> str | None:
  """The policy acts the same whatever the guidance."""
  told = diagnosed.guidance(run)
  if told is None or told['share'] >= _IGNORED:
    return None
  return (
    "shuffling the guidance among states changes the policy's action by"
    f' {told["share"]:.1%} of what another state does: it ignores guidance'
  )


def no_better_than_random(run: Run) -> str | None:
  """Training ended at or below the random policy's return."""
  steps, values = run.series('eval/return')
  _, random = run.series('random/return')
  if not len(steps) or not len(random):
    return None
  final = curves.final_score(steps, values, steps[-1])
  if final > random[-1]:
    return None
  return (
    f'the final return of {final:.4g} is no better than the random'
    f" policy's {random[-1]:.4g}"
  )


CHECKS: dict[str, Callable[[Run], str | None]] = {
  'weights collapsed': collapsed_weights,
  'weights mean nothing': meaningless_weights,
  'dead VAE': dead_vae,
  'exploding KL': exploding_kl,
  'skipped updates': skipped_updates,
  'guidance ignored': ignored_guidance,
  'no better than random': no_better_than_random,
}
