"""Checks of single runs: what is wrong with them, a sentence each.

A check yields what it finds in a run; its first finding is reported. The
thresholds are meant to find what is broken, not what is merely unusual.
"""

import math
from collections.abc import Iterator

from vid2act_jax.analysis import model_sections as sections
from vid2act_jax.analysis import statistics
from vid2act_jax.analysis.load_runs import Run

# One source takes all: with four, the others share 5%, less than the floor of
# distillation (0.1 each) gives them anyhow.
_COLLAPSED = 0.95
_NO_ENTROPY = 0.1  # Of ln N: weights of 97% out of four sources leave that.
_COLLAPSED_SHARE = 1 / 3  # Of the training, its end: early ones may recover.
_UNIFORM = 0.01  # All weights this close to 1/N: nothing was ever preferred.
_SELECTIVE = 0.9  # Of ln N: below, weights prefer sources in single states.
_INACTIVE_KL = 0.01  # Nats of a latent dimension, as in `diagnostics`.
_UNEXPLAINED = 0.95  # Of the variance: no better than always the mean.
_KL_GROWTH = 10.0  # Relative to the median so far; noise makes 2.
_KL_HIGH = 100.0  # Nats; trained models have 1 to 20.
_KL_HISTORY = 5  # Points before a median means something.
_IGNORED = 0.05  # Of the change of actions from state to state.
_MANY_SKIPPED = 0.01  # Of the updates.


def find(run: Run) -> dict[str, str]:
  """Returns {name of a check: what it found}."""
  found = {name: next(check(run), None) for name, check in _CHECKS.items()}
  return {name: text for name, text in found.items() if text}


def _learned_weights(run):
  """Returns the weights of several sources, unless the variant sets them."""
  weights = sections.weights(run)
  several = len(weights) and len(weights.columns) > 1
  return weights if several and not sections.is_fixed(run) else None


def _late(data):
  steps = data.index
  late = data[steps >= steps[-1] - (steps[-1] - steps[0]) * _COLLAPSED_SHARE]
  return late if len(late) >= 2 else data


def _collapsed_weights(run) -> Iterator[str]:
  """Checks whether one source takes all of the similarity until the end."""
  weights = _learned_weights(run)
  if weights is None:
    return
  during = 'during the last third'
  for name, collapsed in (_late(weights) > _COLLAPSED).all().items():
    if collapsed:
      text = f'the weight of {name} is above {_COLLAPSED} {during}: the other'
      yield f'{text} sources play no part'
  entropy, _ = sections.entropy(run)
  if (_late(entropy) < _NO_ENTROPY * math.log(len(weights.columns))).all():
    text = f"the weights' entropy is below {_NO_ENTROPY:.0%} of ln N {during}:"
    yield f'{text} one source at a time takes all'


def _meaningless_weights(run) -> Iterator[str]:
  """Checks whether the similarity ever preferred anything."""
  weights = _learned_weights(run)
  if weights is None:
    return
  num, (entropy, logged) = len(weights.columns), sections.entropy(run)
  selective = logged and entropy.median() < _SELECTIVE * math.log(num)
  distance = (weights - 1 / num).abs().to_numpy().max()
  if distance <= _UNIFORM and not selective:
    text = f'all weights stayed within {_UNIFORM} of 1/N: the mean similarity'
    yield f'{text} does not distinguish the sources'


def _dead_vae(run) -> Iterator[str]:
  """Checks whether the action VAE encodes and reproduces actions."""
  for source, part in sections.read_diagnosis(run, 'vae').items():
    if part['active'] == 0:
      text = f'{source}: no latent dimension of the action VAE is active'
      yield f'{text} (KL above {_INACTIVE_KL} nats)'
    share = part['unexplained'] or 0.0
    if share >= _UNEXPLAINED:
      text = (
        f"{source}: the VAE's error is {share:.0%} of the actions' variance"
      )
      yield f'{text}: no better than predicting their mean'
  last = run.series('train/vae_kl').tail(statistics.LAST)
  if last.median() < _INACTIVE_KL:  # False for the NaN of an empty series.
    text = f'train/vae_kl ended below {_INACTIVE_KL} nats: the latents carry'
    yield f'{text} nothing'


def _exploding_kl(run) -> Iterator[str]:
  """Checks whether the world model's KL left its range so far."""
  kl = run.series('train/kl')
  before = kl.expanding(_KL_HISTORY).median().shift()
  # A free nat is no explosion, however small the median was.
  growth = kl > _KL_GROWTH * before.clip(1.0)
  for step, value in kl[growth | (kl > _KL_HIGH)].items():
    text = f'train/kl is {value:.3g} nats at step {step:.0f}'
    more = f', more than {_KL_GROWTH:.0f} times its median until then'
    yield text if value > _KL_HIGH else text + more


def _skipped_updates(run) -> Iterator[str]:
  """Checks for updates whose losses or gradients were not finite."""
  texts = []
  for stage in ('pretrain', 'finetune'):
    shares = run.series('train/skipped', stage)
    if shares.max() > 0:
      many = 'many: ' if shares.mean() > _MANY_SKIPPED else ''
      texts.append(f'{stage} {many}{shares.mean():.2%}')
  if texts:
    yield f'updates were not finite and were skipped ({", ".join(texts)})'


def _ignored_guidance(run) -> Iterator[str]:
  """Checks whether the policy depends on its guidance."""
  part = sections.read_diagnosis(run, 'guidance')
  if part and part['share'] < _IGNORED:
    text = "shuffling the guidance among states changes the policy's actions by"
    text = f'{text} {part["share"]:.1%} of what another state does'
    yield f'{text}: it ignores guidance'


def _no_better_than_random(run) -> Iterator[str]:
  """Checks whether training ended above the random policy's return."""
  returns, random = run.series('eval/return'), run.series('random/return')
  if returns.empty or random.empty:
    return
  final, base = statistics.final_score(returns, math.inf), random.iloc[-1]
  if final <= base:
    text = f'the final return of {final:.4g} is no better than the random'
    yield f'{text} policy with {base:.4g}'


_CHECKS = {
  'weights collapsed': _collapsed_weights,
  'weights mean nothing': _meaningless_weights,
  'dead VAE': _dead_vae,
  'exploding KL': _exploding_kl,
  'skipped updates': _skipped_updates,
  'guidance ignored': _ignored_guidance,
  'no better than random': _no_better_than_random,
}
