"""Judges a pretrained teacher on datasets, before it teaches.

How well it predicts frames, by horizon, against repeating the last frame and
against the labels of other sources; how much frames surprise it; and how much
of the recorded behaviour its states hold. Of its own sources, on episodes that
it was not trained on, if config.replay.held_out holds out some. Other datasets
are judged under every label: the one that predicts the target's episodes best
should get the largest similarity weight.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from vid2act_jax.analysis import diagnose, load_teacher
from vid2act_jax.analysis.load_teacher import Teacher
from vid2act_jax.data import dataset, splits
from vid2act_jax.data import episodes as eps
from vid2act_jax.learner import diagnostics, open_loop, teacher_diagnostics
from vid2act_jax.types import UserError

VERSION = 1
HORIZONS = 1, 2, 5, 10, 15, 25  # Predicted frames of the tables.
SEQUENCES = 64
HELD_OUT, SEEN = 'held out', 'seen in training'
UNKNOWN = 'perhaps seen in training'
OTHER, FOREIGN = 'another folder than in training', 'no source'
# Share of the episodes that decoded actions are tested on, if none is held out.
_TESTED = 0.25
_FITTED_SEQUENCES = 4  # For each that is tested.


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset to judge on; label: the source task that it is of, or None.

  status: whether the teacher saw the judged episodes; fitted, tested: those for
  the regression of actions, [] if there is a single one.
  """

  name: str
  folder: pathlib.Path
  label: str | None
  status: str
  judged: list[eps.EpisodeFile]
  fitted: list[eps.EpisodeFile]
  tested: list[eps.EpisodeFile]


def judge(
  path: pathlib.Path,
  data: Sequence[pathlib.Path] = (),
  config: pathlib.Path | None = None,
  sequences: int = SEQUENCES,
  seed: int = 0,
) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
  """Judges the teacher of a run, or of a public checkpoint.

  Args:
    path: the run's folder, or the file.
    data: more datasets. Its own are judged where they are found.
    config: of a file: an experiment's .py or a run's folder with the sizes and
      the sources.
    sequences: number of sequences for each measure and dataset.
    seed: of the sequences and the noise; a seed always gives the same result.

  Returns:
    What teacher.json holds: 'teacher', 'updates', 'sources', 'held_out',
    'context', 'horizons', 'sequences', 'seed', 'datasets' as in
    `judge_dataset`, and 'problems'; and for each dataset's name a sequence as
    {row: frames f32 [L, 64, 64, 3]}: the truth, predictions and the last frame.

  Raises:
    UserError: there is no complete teacher or no dataset, or a dataset does not
      fit.
  """
  if sequences < 1:
    raise UserError(f'{sequences} sequences: there must be at least 1')
  teacher = load_teacher.load(path, data, config)
  found, problems = find_datasets(teacher, data)
  judged, pictures = [], {}
  for index, one in enumerate(found):
    result, picture = judge_dataset(teacher, one, sequences, (seed, index))
    judged.append(result)
    pictures[one.name] = picture
  return {
    'version': VERSION,
    'teacher': teacher.name,
    'updates': teacher.updates,
    'sources': list(teacher.config.sources),
    'held_out': teacher.config.replay.held_out,
    'context': open_loop.CONTEXT,
    'horizons': list(HORIZONS),
    'sequences': sequences,
    'seed': seed,
    'datasets': judged,
    'problems': problems,
  }, pictures


def find_datasets(
  teacher: Teacher, data: Sequence[pathlib.Path]
) -> tuple[list[Dataset], list[str]]:
  """Finds the teacher's sources and other datasets.

  Returns:
    The datasets, sources first; and what is missing.

  Raises:
    UserError: there is none, or one is damaged or does not fit the teacher.
  """
  config, problems, found = teacher.config, [], []
  known = {folder.resolve() for folder in teacher.folders.values()}
  status = HELD_OUT if config.replay.held_out else SEEN
  if teacher.updates is None:  # A file: nothing is known about its training.
    status = UNKNOWN
  for task, folder in teacher.folders.items():
    if (folder / dataset.FILE).exists() or not data:
      found.append(_dataset(config, task, folder, task, status))
    else:
      problems.append(f'source {task}: no dataset in {folder}, not judged')
  for folder in data:
    if folder.resolve() in known:
      continue
    known.add(folder.resolve())
    names = load_teacher.task_names(folder)
    label = next((x for x in names if x in teacher.folders), None)
    status = OTHER if label else FOREIGN
    taken = {one.name for one in found}
    name = str(folder) if names[1] in taken else names[1]
    found.append(_dataset(config, name, folder, label, status))
  if any(one.status == SEEN for one in found):
    problems.append(
      'no episodes were held out of training: errors on the sources are too'
      ' low; pretrain with config.replay.held_out=0.1'
    )
  return found, problems


def _dataset(config, name, folder, label, status):
  metadata = dataset.read_metadata(folder)
  size, needed = metadata['size'], config.env.size
  if size != needed:
    raise UserError(
      f'{folder}: its frames are {size}x{size}, those of the teacher'
      f' {needed}x{needed}; import it with --size {needed}, or collect it again'
    )
  if metadata['action_repeat'] not in (None, config.env.action_repeat):
    raise UserError(
      f'{folder}: its action_repeat is {metadata["action_repeat"]}, that of the'
      f' teacher {config.env.action_repeat}; collect it again with the same'
    )
  listed, held_out = dataset.find_episodes(folder), status == HELD_OUT
  share = config.replay.held_out if held_out else _TESTED
  fitted, tested = [], []
  if held_out or len(listed) > 1:
    fitted, tested = splits.split_episodes(listed, share, config.seed)
  judged = tested if held_out else listed
  if _longest(judged) <= open_loop.CONTEXT:
    raise UserError(
      f'{folder}: none of {len(judged)} episodes ({status}) is longer than'
      f' {open_loop.CONTEXT} frames, the context of a prediction; use longer'
      ' ones'
    )
  return Dataset(name, folder, label, status, judged, fitted, tested)


def _longest(found):
  return max((file.length for file in found), default=0)


def judge_dataset(
  teacher: Teacher, data: Dataset, num: int, seed: tuple[int, int]
) -> tuple[dict, dict[str, np.ndarray]]:
  """Judges a teacher on one dataset.

  Args:
    teacher: to judge.
    data: the dataset.
    num: number of tested sequences.
    seed: of the sequences and the noise.

  Returns:
    name, folder, label, status, episodes (number judged), frames (of a
    sequence); errors: {label: mean squared error of each predicted
    frame, pixels in 0..1}, {} without a decoder; last_frame: that of repeating
    the last frame of the context; kl: {label: nats a frame}; actions: {label:
    as in `decode_actions`, with the numbers of episodes}, under the dataset's
    label or all; best: the label of the lowest mean error, lowest_kl: that of
    the lowest KL. And a sequence of average difficulty, see `judge`.

  Raises:
    UserError: an episode is damaged, or the numbers are not finite.
  """
  owner, labels = teacher.owner, list(teacher.config.sources)
  length = min(open_loop.CONTEXT + HORIZONS[-1], _longest(data.judged))
  key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
  batch = diagnose.sample(data.judged, num, length, _rng(seed, 0))
  args = owner, teacher.params, batch, key
  errors = {}
  if 'decoder' in teacher.params:
    curves = teacher_diagnostics.predictions(*args)
    errors = dict(zip(labels, curves, strict=True))
  kl = dict(zip(labels, teacher_diagnostics.kl(*args), strict=True))
  mean = {label: float(np.mean(curve)) for label, curve in errors.items()}
  out = {
    'name': data.name,
    'folder': str(data.folder),
    'label': data.label,
    'status': data.status,
    'episodes': len(data.judged),
    'frames': length,
    'errors': errors,
    'last_frame': diagnostics.last_frame(batch),
    'kl': kl,
    'actions': _decode_actions(teacher, data, num, seed),
    'best': min(mean, key=mean.get) if mean else None,
    'lowest_kl': min(kl, key=kl.get),
  }
  numbers = [x for x in jax.tree.leaves(out) if not isinstance(x, str)]
  if not np.isfinite(numbers).all():
    raise UserError(
      f'{data.folder}: predictions are not finite: the training of'
      f' {teacher.name} seems to have diverged'
    )
  return out, _picture(teacher, batch, key, out) if errors else {}


def _rng(seed, stream):
  return np.random.default_rng((*seed, stream))


def _decode_actions(teacher, data, num, seed):
  """Returns {label: how well states give actions}, {} with too few episodes."""
  if min(map(_longest, (data.fitted, data.tested))) <= open_loop.CONTEXT:
    return {}
  key, parts = jax.random.fold_in(jax.random.key(seed[0]), seed[1]), []
  for stream, found, count in (
    (1, data.fitted, _FITTED_SEQUENCES * num),
    (2, data.tested, num),
  ):
    length = min(open_loop.CONTEXT + HORIZONS[-1], _longest(found))
    batch = diagnose.sample(found, count, length, _rng(seed, stream))
    parts.append((batch, jax.random.fold_in(key, stream)))
  owner, params, out = teacher.owner, teacher.params, {}
  for domain, label in enumerate(teacher.config.sources):
    if data.label in (None, label):
      states = lambda *xs, i=domain: teacher_diagnostics.states(*xs, i)[0]
      pairs = [(states(owner, params, *part), part[0].action) for part in parts]
      counts = {'fitted': len(data.fitted), 'tested': len(data.tested)}
      out[label] = teacher_diagnostics.decode_actions(*pairs) | counts
  return out


def _picture(teacher, batch, key, out):
  """Returns the frames of a sequence that changes as much as most do."""
  image = batch.image.astype(np.float32) / 255
  last = image[:, open_loop.CONTEXT - 1]
  change = np.square(image[:, open_loop.CONTEXT :] - last[:, None])
  row = np.argsort(change.mean((1, 2, 3, 4)))[len(image) // 2]
  one = jax.tree.map(lambda x: x[row : row + 1], batch)
  labels = list(teacher.config.sources)
  own = out['label'] or out['best']
  mean = {x: np.mean(curve) for x, curve in out['errors'].items() if x != own}
  shown = [own, *sorted(mean, key=mean.get)[:1]]
  predict = lambda label: teacher_diagnostics.predicted_frames(
    teacher.owner, teacher.params, one, key, labels.index(label)
  )
  still = np.where(
    np.arange(len(image[row]))[:, None, None, None] < open_loop.CONTEXT,
    image[row],
    last[row],
  )
  rows = {f'under {label}': predict(label)[0] for label in shown}
  return {'truth': image[row], **rows, 'last frame repeated': still}
