"""Variants of the method: the whole of it, its baselines and its ablations.

A variant changes only what its fields name. The steps read these fields.
"""

import dataclasses
from collections.abc import Sequence

from vid2act_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
  """The parts of the method that are used; by default all of Vid2Act."""

  # With a frozen teacher; without it the next four fields have no effect.
  teacher: bool = True
  # Its features are distilled into the student. False: the distillation map
  # and the similarity network learn, but no gradient reaches the student.
  distill: bool = True
  # Action replay: the VAE learns, and the policy reads its guidance. False: no
  # VAE and no guidance, and no source batches are sampled.
  replay: bool = True
  # Similarity weights: 'learned'; 'frozen', as initialised; 'uniform', 1/N;
  # 'single', one-hot: only one domain is distilled and replayed.
  weights: str = 'learned'
  domain: int = 0  # the domain of 'single'
  # Initialisation of the student: 'fresh'; 'teacher', the pretrained world
  # model; 'stacked', fresh, on top of a pretrained action-free model (APV,
  # arXiv 2203.13880) that is trained with it.
  start: str = 'fresh'

  @property
  def pretrained(self) -> bool:
    """Whether a model pretrained on the sources is used."""
    return self.teacher or self.start != 'fresh'

  @property
  def actions(self) -> bool:
    """Whether pretraining reads the source actions."""
    return self.start != 'stacked'

  @property
  def has_similarity_net(self) -> bool:
    """Whether there is a similarity network."""
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
  """Returns the variant with this name.

  Args:
    name: one of `VARIANTS`, or 'single:<source task>'.
    sources: the source tasks, in the order of the labels.

  Raises:
    UserError: an unknown variant or source.
  """
  if name.startswith(_SINGLE):
    domain = name.removeprefix(_SINGLE)
    if domain not in sources:
      raise UserError(
        f'config.variant={name!r}: {domain!r} is not in config.sources'
        f' ({", ".join(sources) or "empty"})'
      )
    return Variant(weights='single', domain=list(sources).index(domain))
  if name not in VARIANTS:
    known = ', '.join((*VARIANTS, f'{_SINGLE}<source task>'))
    raise UserError(
      f'config.variant={name!r} is unknown; set it to one of {known}'
    )
  return VARIANTS[name]
