"""What a learner uses of the method: all of it, or what a study leaves.

A variant changes nothing but what its fields name; the steps ask for them.
"""

import dataclasses
from collections.abc import Sequence

from vid2act_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
  """Which parts are used; by default the whole of Vid2Act."""

  # A frozen teacher watches along; without it the next four mean nothing.
  teacher: bool = True
  # Its features draw the student's. False: `distill` learns to map them, and
  # the similarity to weigh them, but no gradient of it reaches the student.
  distill: bool = True
  # The sources' actions are replayed: the VAE learns, the policy reads its
  # guidance. False: neither is there, and no source batch is drawn.
  replay: bool = True
  # Similarity weights: 'learned'; 'frozen', as initialised; 'uniform', 1/N;
  # 'single', all on one domain, which alone is distilled and replayed.
  weights: str = 'learned'
  domain: int = 0  # the one of 'single'
  # What the student starts from: 'fresh'; 'teacher', the pretrained world
  # model; 'stacked', which sees by a pretrained model without actions (APV,
  # arXiv 2203.13880), trained along with it.
  start: str = 'fresh'

  @property
  def pretrained(self) -> bool:
    """Whether anything of the sources is used."""
    return self.teacher or self.start != 'fresh'

  @property
  def actions(self) -> bool:
    """Whether pretraining sees the sources' actions."""
    return self.start != 'stacked'

  @property
  def weighs(self) -> bool:
    """Whether there is a network for the similarity."""
    return self.teacher and self.weights in ('learned', 'frozen')


VARIANTS = {
  'vid2act': Variant(),
  'dreamerv2': Variant(teacher=False),
  'finetune': Variant(teacher=False, start='teacher'),
  'action_free': Variant(teacher=False, start='stacked'),
  'no_distill': Variant(distill=False),
  'no_replay': Variant(replay=False),
  'uniform': Variant(weights='uniform'),
  'frozen_weights': Variant(weights='frozen'),
}
_SINGLE = 'single:'


def parse(name: str, sources: Sequence[str] = ()) -> Variant:
  """The variant of a name.

  Args:
    name: one of `VARIANTS`, or 'single:<source task>'.
    sources: the source tasks, in the order of the labels.

  Raises:
    UserError: there is no such variant or source.
  """
  if name.startswith(_SINGLE):
    domain = name.removeprefix(_SINGLE)
    if domain not in sources:
      raise UserError(
        f'config.variant={name!r}: {domain!r} is not in config.sources, which'
        f' has {", ".join(sources) or "none"}'
      )
    return Variant(weights='single', domain=list(sources).index(domain))
  if name not in VARIANTS:
    known = ', '.join((*VARIANTS, f'{_SINGLE}<source task>'))
    raise UserError(f'config.variant={name!r} is unknown; one of {known}')
  return VARIANTS[name]
