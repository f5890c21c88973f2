"""Variants of the method: presets over the fields of its transfer.

A variant is a set of values for the fields of `config.learner.transfer`. A
preset gives them a name: Vid2Act as in its public code, its plain reading, its
baselines and its ablations. A field that is set in the config replaces the
preset's value.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vid2act_jax.nets import dists
from vid2act_jax.types import Problems, UserError

KEY = 'config.learner.transfer'
GUIDANCE = 'feature', 'prior', 'jump_start', 'residual'


@dataclasses.dataclass(frozen=True)
class Distillation:
  """Between which states of teacher and student, and how, it is distilled."""

  # Steps that the teacher predicts without frames; 0: its posterior.
  horizon: int = 0
  distance: str = 'mean'  # over features of squared differences, or 'sum'
  # 'to_student': mapped teacher features are compared with the student's;
  # 'to_teacher': mapped student features predict the teacher's; 'none': like
  # 'to_student', but no gradient reaches the student.
  direction: str = 'to_student'
  floor: float = 0.1  # minimum similarity weight in the loss


@dataclasses.dataclass(frozen=True)
class Weights:
  """The similarity weights of the domains."""

  kind: str = 'learned'
  domain: int = 0  # of 'single'
  temperature: float = 10.0  # nats, of 'evidence'


@dataclasses.dataclass(frozen=True)
class Generator:
  """Training of the generator of source actions, the action VAE."""

  domains: str = 'all'  # or 'selected': the most similar one
  pretrained: bool = False  # on the states of the finished teacher
  until: float = 1.0  # share of the training after which it is frozen


@dataclasses.dataclass(frozen=True)
class Guidance:
  """Use of the generated actions."""

  kinds: tuple[str, ...] = ('feature',)  # some of `GUIDANCE`
  # In which the jump start fades to 0, and the prior to a thousandth.
  updates: int = 5_000
  prior_scale: float = 1.0  # initial weight of the prior in the actor's loss
  prior_std: float = 0.3  # of the prior, around the generated actions
  # Share of the first episodes that generated actions act in.
  jump_start_share: float = 0.8


@dataclasses.dataclass(frozen=True)
class Rehearsal:
  """Source sequences in the batch of the student's world model."""

  share: float = 0.0  # of the batch's sequences
  domains: str = 'all'  # or 'selected': the most similar one


@dataclasses.dataclass(frozen=True)
class Variant:
  """The parts of the method that are used; by default all of Vid2Act."""

  # Frozen teachers: 'mixture', 'separate' or 'none'. Without them distillation,
  # weights, generator and guidance have no effect.
  teachers: str = 'mixture'
  # Initialisation of the student: 'fresh'; 'teacher', the pretrained world
  # model; 'stacked', fresh, on top of a pretrained model that is trained with
  # it (APV, arXiv 2203.13880).
  start: str = 'fresh'
  pretrain_actions: bool = True  # whether pretraining reads the source actions
  distillation: Distillation = Distillation()
  weights: Weights = Weights()
  generator: Generator = Generator()
  guidance: Guidance = Guidance()
  rehearsal: Rehearsal = Rehearsal()

  @property
  def teacher(self) -> bool:
    """Whether a frozen teacher is used."""
    return self.teachers != 'none'

  @property
  def pretrained(self) -> bool:
    """Whether a model pretrained on the sources is used."""
    return self.teacher or self.start != 'fresh'

  @property
  def uses_sources(self) -> bool:
    """Whether anything of the sources is used."""
    return self.pretrained or self.rehearsal.share > 0

  @property
  def generates_actions(self) -> bool:
    """Whether there is a generator of source actions."""
    return self.teacher and bool(self.guidance.kinds)

  def guides_by(self, kind: str) -> bool:
    """Whether generated actions are used in this way, one of `GUIDANCE`."""
    return self.teacher and kind in self.guidance.kinds

  @property
  def jump_starts_prefill(self) -> bool:
    """Whether generated actions are of use before the first update."""
    early = self.guidance.updates > 0 and self.guidance.jump_start_share > 0
    acts = self.guides_by('jump_start') and early
    return acts and self.generator.pretrained

  @property
  def trains_generator(self) -> bool:
    """Whether the generator learns along with the student."""
    return self.generates_actions and self.generator.until > 0

  @property
  def needs_num_updates(self) -> bool:
    """Whether a part of the method ends after a share of the training."""
    return self.generates_actions and 0 < self.generator.until < 1

  @property
  def has_similarity_net(self) -> bool:
    """Whether there is a similarity network."""
    return self.teacher and self.weights.kind in ('learned', 'frozen')


# The fields of `config.learner.transfer` and their values in the public code.
FIELDS = {
  'teachers': 'mixture',
  'states': 'posterior',
  'distance': 'mean',
  'direction': 'to_student',
  'weights': 'learned',
  'temperature': 10.0,
  'importance_floor': 0.1,
  'generator': 'all',
  'generator_start': 'fresh',
  'generator_until': 1.0,
  'guidance': 'feature',
  'guidance_updates': 5_000,
  'prior_scale': 1.0,
  'prior_std': 0.3,
  'jump_start_share': 0.8,
  'start': 'fresh',
  'pretrain_actions': True,
  'rehearsal': 0.0,
  'rehearsal_domains': 'all',
}
# What each preset changes.
VARIANTS: dict[str, dict] = {
  'vid2act': {},
  'dreamerv2': {'teachers': 'none'},
  'finetune': {'teachers': 'none', 'start': 'teacher'},
  'action_free': {
    'teachers': 'none',
    'start': 'stacked',
    'pretrain_actions': False,
  },
  'no_distill': {'direction': 'none'},
  'no_replay': {'guidance': 'none'},
  'uniform': {'weights': 'uniform'},
  'frozen_weights': {'weights': 'frozen'},
  'vid2act_paper': {
    'states': 'prior',
    'distance': 'sum',
    'importance_floor': 0.0,
    'generator': 'selected',
  },
  'vid2act_guided': {
    'direction': 'to_teacher',
    'weights': 'evidence',
    'generator_start': 'pretrained',
    'generator_until': 0.0,
    'guidance': 'residual+prior+jump_start',
    'prior_scale': 10.0,
    'start': 'teacher',
    'rehearsal': 0.33,
  },
}
_CHOICES = {
  'teachers': ('mixture', 'separate', 'none'),
  'distance': ('mean', 'sum'),
  'direction': ('to_student', 'to_teacher', 'none'),
  'generator': ('all', 'selected'),
  'generator_start': ('fresh', 'pretrained'),
  'start': ('fresh', 'teacher', 'stacked'),
  'rehearsal_domains': ('all', 'selected'),
}
_WEIGHTS = 'learned', 'evidence', 'uniform', 'frozen'
_SHARES = 'generator_until', 'jump_start_share'
_SINGLE, _ROLLOUT = 'single:', 'rollout:'


def parse(
  name: str,
  sources: Sequence[str] = (),
  overrides: Mapping[str, object] | None = None,
) -> Variant:
  """Returns the variant of a preset, with some of its fields replaced.

  Args:
    name: one of `VARIANTS`, or 'single:<source task>'.
    sources: the source tasks, in the order of the labels.
    overrides: `config.learner.transfer`; only keys of `FIELDS` with a value are
      read.

  Raises:
    UserError: an unknown preset, source or value, or fields that do not go
      together.
  """
  changed = {
    key: value
    for key, value in (overrides or {}).items()
    if key in FIELDS and value is not None
  }
  fields = {**preset_fields(name), **changed}
  single = str(fields['weights']).startswith(_SINGLE)
  if single and 'importance_floor' not in changed:
    fields['importance_floor'] = 0.0
  _check_values(fields)
  _check_combination(fields)
  return Variant(
    fields['teachers'],
    fields['start'],
    fields['pretrain_actions'],
    Distillation(
      _horizon(fields['states']),
      fields['distance'],
      fields['direction'],
      fields['importance_floor'],
    ),
    _weights(fields, sources),
    Generator(
      fields['generator'],
      fields['generator_start'] == 'pretrained',
      fields['generator_until'],
    ),
    Guidance(
      _kinds(fields['guidance']),
      fields['guidance_updates'],
      fields['prior_scale'],
      fields['prior_std'],
      fields['jump_start_share'],
    ),
    Rehearsal(fields['rehearsal'], fields['rehearsal_domains']),
  )


def preset_fields(name: str) -> dict[str, Any]:
  """The fields of a preset, as they are in `config.learner.transfer`.

  Raises:
    UserError: an unknown preset.
  """
  return {**FIELDS, **_preset(name)}


def _preset(name):
  if name.startswith(_SINGLE):
    return {'weights': name}
  if name not in VARIANTS:
    known = ', '.join((*VARIANTS, f'{_SINGLE}<source task>'))
    matches = difflib.get_close_matches(name, VARIANTS, 1)
    hint = f'did you mean {matches[0]}? ' if matches else ''
    raise UserError(
      f'config.variant={name!r} is unknown; {hint}set it to one of {known}'
    )
  return VARIANTS[name]


def _weights(fields, sources):
  kind = fields['weights']
  if not kind.startswith(_SINGLE):
    return Weights(kind, 0, fields['temperature'])
  domain = kind.removeprefix(_SINGLE)
  if domain not in sources:
    raise UserError(
      f'config.variant or {KEY}.weights={kind!r}: {domain!r} is not in'
      f' config.sources ({", ".join(sources) or "empty"})'
    )
  return Weights('single', list(sources).index(domain))


def _horizon(states) -> int:
  named = {'posterior': 0, 'prior': 1}
  if states in named:
    return named[states]
  number = states.removeprefix(_ROLLOUT)
  if not states.startswith(_ROLLOUT) or not number.isdigit() or number == '0':
    raise _unknown('states', states, ('posterior', 'prior', f'{_ROLLOUT}<k>'))
  return int(number)


def _kinds(guidance) -> tuple[str, ...]:
  if guidance == 'none':
    return ()
  kinds = tuple(guidance.split('+'))
  if not set(kinds) <= set(GUIDANCE):
    choices = (*GUIDANCE, 'none', 'or several of them joined by +')
    raise _unknown('guidance', guidance, choices)
  return kinds


def _check_values(fields):
  """Raises a UserError if the values of single fields are not valid."""
  problems = Problems()
  for key, choices in _CHOICES.items():
    if fields[key] not in choices:
      problems.add(str(_unknown(key, fields[key], choices)))
  weights = fields['weights']
  if weights not in _WEIGHTS and not weights.startswith(_SINGLE):
    choices = (*_WEIGHTS, f'{_SINGLE}<source task>')
    problems.add(str(_unknown('weights', weights, choices)))
  for parse_value, key in ((_horizon, 'states'), (_kinds, 'guidance')):
    with problems.collect():
      parse_value(fields[key])
  for key in _SHARES:
    if not 0 <= fields[key] <= 1:
      problems.add(f'{KEY}.{key}={fields[key]} is a share; set it to 0 to 1')
  if not 0 <= fields['rehearsal'] < 1:
    problems.add(
      f'{KEY}.rehearsal={fields["rehearsal"]} is a share of the batch; set it'
      ' to 0 or more, and less than 1'
    )
  for key in ('importance_floor', 'prior_scale', 'guidance_updates'):
    if not 0 <= fields[key] < math.inf:
      problems.add(f'{KEY}.{key}={fields[key]}: set it to 0 or more')
  if not fields['temperature'] > 0:
    problems.add(
      f'{KEY}.temperature={fields["temperature"]}: set it to more than 0 nats'
    )
  if not dists.MIN_STD < fields['prior_std'] < dists.MAX_STD:
    problems.add(
      f'{KEY}.prior_std={fields["prior_std"]}: set it to more than'
      f' {dists.MIN_STD} and less than {dists.MAX_STD}, the bounds of the'
      " policy's standard deviation"
    )
  problems.raise_all()


def _check_combination(fields):
  """Raises a UserError if the fields do not go together."""
  problems = Problems()

  def fail(keys, reason, hint):
    values = ' with '.join(f'{KEY}.{key}={fields[key]}' for key in keys)
    problems.add(f'{values}: {reason}; {hint}')

  if fields['teachers'] == 'none':
    if fields['rehearsal'] and fields['rehearsal_domains'] == 'selected':
      fail(
        ('rehearsal_domains', 'teachers'),
        'the most similar source is selected by a frozen teacher',
        f'set {KEY}.rehearsal_domains=all',
      )
    problems.raise_all()
    return
  used = fields['guidance'] != 'none'
  pretrained = used and fields['generator_start'] == 'pretrained'
  # A fresh generator must be trained.
  train = '' if fields['generator_until'] else f' and {KEY}.generator_until=1.0'
  if pretrained and fields['direction'] != 'to_teacher':
    fail(
      ('generator_start', 'direction'),
      "a pretrained generator reads the teacher's features",
      f'set {KEY}.direction=to_teacher',
    )
  if pretrained and fields['teachers'] == 'separate':
    fail(
      ('generator_start', 'teachers'),
      'the generator of each teacher knows one source only',
      f'set {KEY}.generator_start=fresh{train}',
    )
  if used and not pretrained and not fields['generator_until']:
    fail(
      ('generator_until', 'generator_start'),
      'the generator would never be trained',
      f'set {KEY}.generator_until=1.0 or another share above 0, or'
      f' {KEY}.generator_start=pretrained and {KEY}.direction=to_teacher',
    )
  if fields['teachers'] == 'separate' and fields['start'] != 'fresh':
    fail(
      ('start', 'teachers'),
      'a student cannot start from several teachers',
      f'set {KEY}.start=fresh, or {KEY}.teachers=mixture',
    )
  for key in ('generator', 'rehearsal_domains'):
    if fields[key] == 'selected' and fields['weights'] == 'uniform':
      fail(
        (key, 'weights'),
        'with equal weights no source is the most similar',
        f'set {KEY}.{key}=all, or other weights',
      )
  problems.raise_all()


def _unknown(key, value, choices):
  return UserError(
    f'{KEY}.{key}={value!r} is unknown; set it to one of {", ".join(choices)}'
  )
