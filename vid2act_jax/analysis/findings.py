"""Checks of single runs: what is wrong with them, a sentence each.

The thresholds are meant to find what is broken, not what is merely unusual.
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

# What to try.
HINTS = {
  'weights collapsed': 'config.learner.transfer.weights=evidence',
  'weights mean nothing': 'config.learner.transfer.weights=evidence',
  'dead VAE': 'a smaller config.learner.transfer.vae_kl',
  'exploding KL': 'a smaller config.learner.optim.model_lr',
  'skipped updates': 'a smaller config.learner.optim.model_lr, or'
  ' config.learner.dtype=float32',
  'guidance ignored': 'config.learner.transfer.guidance='
  'feature+prior+jump_start',
  'no better than random': 'a larger config.finetune.env_steps; compare with'
  ' config.variant=dreamerv2',
}

_Rules = Iterator[tuple[str, bool, str]]  # Check, whether it holds, text.


def find(run: Run) -> dict[str, str]:
  """Returns {name of a check: the first that it found}."""
  found: dict[str, str] = {}
  for check in (_check_weights, _check_vae, _check_losses, _check_policy):
    for name, holds, text in check(run):
      if holds:
        found.setdefault(name, text)
  return found


def rows(run: Run) -> list[dict[str, str]]:
  """Returns what `find` does as rows {run, name, text, hint}."""
  return [
    {'run': str(run.path), 'name': name, 'text': text, 'hint': HINTS[name]}
    for name, text in find(run).items()
  ]


def _check_weights(run) -> _Rules:
  """Checks whether learned weights collapse, or never preferred a source."""
  weights, (entropy, logged) = sections.weights(run), sections.entropy(run)
  num = len(weights.columns)
  if num < 2 or weights.empty or sections.is_fixed(run):
    return
  if sections.are_evidence(run):  # A posterior may well be sure.
    return
  check, during = 'weights collapsed', 'during the last third'
  for name, share in _late(weights).min().items():
    text = f'the weight of {name} is above {_COLLAPSED} {during}: the other'
    yield check, share > _COLLAPSED, f'{text} sources play no part'
  text = (
    f"the weights' entropy is below {_NO_ENTROPY:.0%} of ln N {during}: one"
  )
  collapsed = _late(entropy).max() < _NO_ENTROPY * math.log(num)
  yield check, collapsed, f'{text} source at a time takes all'
  selective = logged and entropy.median() < _SELECTIVE * math.log(num)
  uniform = (weights - 1 / num).abs().to_numpy().max() <= _UNIFORM
  text = (
    f'all weights stayed within {_UNIFORM} of 1/N: the mean similarity does'
  )
  text = f'{text} not distinguish the sources'
  yield 'weights mean nothing', uniform and not selective, text


def _late(data):
  steps = data.index
  late = data[steps >= steps[-1] - (steps[-1] - steps[0]) * _COLLAPSED_SHARE]
  return late if len(late) >= 2 else data


def _check_vae(run) -> _Rules:
  """Checks whether the action VAE encodes and reproduces actions."""
  check = 'dead VAE'
  for source, part in sections.read_diagnosis(run, 'vae').items():
    text = (
      f'{source}: no latent dimension of the action VAE is active (KL above'
    )
    yield check, part['active'] == 0, f'{text} {_INACTIVE_KL} nats)'
    share = part['unexplained'] or 0.0
    text = f"{source}: the VAE's error is {share:.0%} of the actions' variance"
    text = f'{text}: no better than predicting their mean'
    yield check, share >= _UNEXPLAINED, text
  last = run.series('train/vae_kl').tail(statistics.LAST).median()
  text = f'train/vae_kl ended below {_INACTIVE_KL} nats: the latents carry'
  yield check, last < _INACTIVE_KL, f'{text} nothing'  # Not if last is NaN.


def _check_losses(run) -> _Rules:
  """Checks whether the KL left its range so far, and for skipped updates."""
  kl = run.series('train/kl')
  before = kl.expanding(_KL_HISTORY).median().shift()
  # A free nat is no explosion, however small the median was.
  growth = kl > _KL_GROWTH * before.clip(1.0)
  for step, value in kl[growth | (kl > _KL_HIGH)].items():
    text = f'train/kl is {value:.3g} nats at step {step:.0f}'
    more = f', more than {_KL_GROWTH:.0f} times its median until then'
    yield 'exploding KL', True, text if value > _KL_HIGH else text + more
  stages = {x: run.series('train/skipped', x) for x in ('pretrain', 'finetune')}
  shares = {
    x: series.mean() for x, series in stages.items() if series.max() > 0
  }
  many = {True: 'many: ', False: ''}
  texts = (f'{x} {many[y > _MANY_SKIPPED]}{y:.2%}' for x, y in shares.items())
  text = f'updates were not finite and were skipped ({", ".join(texts)})'
  yield 'skipped updates', bool(shares), text


def _check_policy(run) -> _Rules:
  """Checks whether the policy uses guidance, and is better than random."""
  if part := sections.read_diagnosis(run, 'guidance'):
    check, limit = 'guidance ignored', f'(below {_IGNORED:.0%})'
    text = "shuffling the guidance among states changes the policy's actions by"
    text = f'{text} {part["share"]:.1%} of what another state does {limit}: it'
    yield check, part['share'] < _IGNORED, f'{text} ignores guidance'
    if (share := part['domains']) is not None:
      text = "another domain's guidance changes the policy's actions by"
      text = f'{text} {share:.1%} of what another state does {limit}: it makes'
      more = 'no difference which source is selected'
      yield check, share < _IGNORED, f'{text} {more}'
  returns = run.series('eval/return')
  for base in run.series('random/return')[-1:] if len(returns) else ():
    final = statistics.final_score(returns, math.inf)
    text = (
      f'the final return of {final:.4g} is no better than the random policy'
    )
    yield 'no better than random', final <= base, f'{text} with {base:.4g}'
