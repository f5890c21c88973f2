"""Episodes in memory, mirrored in a dataset folder, sampled as chunks."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.data.assemble import Assembler
from vid2act_jax.types import UserError

# What a batch is made of; the rest of an episode stays on disk.
KEYS = ('image', 'action', 'reward', 'is_first')


class Replay:
  """Whole episodes up to a bound in frames; the oldest leave first.

  What is held is always the longest run of newest episodes that fits (the
  newest itself in any case): a function of the files alone, so that a resumed
  run holds what the interrupted one did.

  An owner (online replay) adds episodes: each is written to its folder and
  durable before it counts, and those out of memory are deleted from disk by
  `release`. Without ownership (a source dataset) the folder is only read.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    capacity_frames: int,
    seed: int,
    action_dim: int | None = None,
    size: int | None = None,
    owner: bool = False,
    keep_episodes: int | None = None,
  ):
    """Loads and validates what the folder holds.

    Args:
      directory: a dataset folder; an owner makes it.
      capacity_frames: the bound on frames held in memory.
      seed: of the batches, not negative.
      action_dim: the actions' A; None: that of the first episode.
      size: the frames' height and width; None: that of the first episode.
      owner: whether episodes may be added and deleted.
      keep_episodes: the `total_episodes` of the checkpoint to resume from;
        an owner deletes all later episodes. None: all are kept.

    Raises:
      UserError: the folder has no episodes (not an owner), an episode is
        damaged or wrong, or one that the checkpoint knows is missing.
    """
    if capacity_frames < 1 or seed < 0:
      raise UserError(
        f'Replay needs a capacity of at least 1 frame and a seed of at least '
        f'0, not {capacity_frames} and {seed}.'
      )
    if keep_episodes is not None and not owner:
      raise ValueError('Only an owner may drop episodes.')
    self.directory = pathlib.Path(directory)
    self.action_dim = action_dim
    self._capacity = capacity_frames
    self._seed = seed
    self._size = size
    self._owner = owner
    self._assembler = Assembler()
    self._episodes: list[dict[str, np.ndarray]] = []
    self._files: list[eps.EpisodeFile] = []  # Of the episodes held.
    self._released: list[eps.EpisodeFile] = []  # Out of memory, on disk.
    self._starts: tuple[int, np.ndarray] | None = None
    self.num_frames = 0
    files = self._claim(keep_episodes) if owner else self._source()
    self.total_episodes = files[-1].index + 1 if files else 0
    self._load(files)

  @property
  def num_episodes(self) -> int:
    """Episodes held."""
    return len(self._episodes)

  @property
  def episodes_on_disk(self) -> int:
    """Episodes held and those that are on disk only."""
    return len(self._files) + len(self._released)

  def add(
    self, obs: Mapping[str, np.ndarray], actions: np.ndarray
  ) -> list[dict]:
    """Takes one step of E environments; episodes count when they end.

    Args:
      obs: what `VectorEnv.step` returned, arrays [E, ...].
      actions: [E, A], the actions that led there; ignored at resets.

    Returns:
      For each episode that ended: {'return', 'length', 'success'?}, length in
      frames.

    Raises:
      UserError: the episode is not valid or cannot be written.
    """
    if not self._owner:
      raise ValueError(f'{self.directory} is a source: it is only read.')
    summaries = []
    for episode in self._assembler.add(obs, actions):
      where = f'{self.directory}, new episode {self.total_episodes}'
      self._validate(episode, where)
      path = eps.save(self.directory, self.total_episodes, episode)
      length = len(episode['reward'])
      self._hold(eps.EpisodeFile(path, self.total_episodes, length), episode)
      self.total_episodes += 1
      summaries.append(eps.summarize(episode))
    return summaries

  def release(self) -> None:
    """Deletes from disk what has left memory.

    To be called when a checkpoint that holds the present `total_episodes` is
    durable: until then, a resumed run may need the old episodes again.
    """
    if not self._owner:
      raise ValueError(f'{self.directory} is a source: it is only read.')
    for file in self._released:
      file.path.unlink(missing_ok=True)
    self._released = []

  def num_starts(self, length: int) -> int:
    """In how many places a chunk of this length can start."""
    return int(self._cumulative(length)[-1]) if self._episodes else 0

  def sample(
    self,
    index: int,
    batch: int,
    length: int,
    pad_actions_to: int | None = None,
    stream: int = 0,
    out: dict[str, np.ndarray] | None = None,
  ) -> dict[str, np.ndarray]:
    """Batch number `index`: chunks uniform over all places they can start.

    A pure function of the arguments, the seed and the episodes held: there is
    no sampler to save. No chunk crosses the border of an episode.

    Args:
      index: the batch's number, as the learner's step.
      batch: B chunks.
      length: L frames each.
      pad_actions_to: A of the result, zeros behind the episodes' own.
      stream: independent draws for the same index and seed.
      out: arrays to fill instead of new ones, its actions' padding zeros; not
        those that a device may still be reading.

    Returns:
      image u8 [B, L, H, W, 3], action f32 [B, L, A], reward f32 [B, L],
      is_first bool [B, L].

    Raises:
      UserError: no episode is long enough.
    """
    if not self.num_starts(length):
      raise UserError(self._too_short(length))
    ends = self._cumulative(length)
    random = np.random.Generator(
      # Keys and counters never meet, whatever seed, index and stream.
      np.random.Philox(key=[self._seed, index], counter=[0, 0, 0, stream])
    )
    places = random.integers(0, ends[-1], batch)
    owners = np.searchsorted(ends, places, side='right')
    if out is None:
      out = self.empty_batch((batch, length), pad_actions_to)
    for row, (place, owner) in enumerate(zip(places, owners, strict=True)):
      episode = self._episodes[owner]
      # The episode's last start is the one before its running sum.
      start = self._files[owner].length - length - (ends[owner] - 1 - place)
      chunk = slice(start, start + length)
      for key in ('image', 'reward', 'is_first'):
        out[key][row] = episode[key][chunk]
      out['action'][row, :, : self.action_dim] = episode['action'][chunk]
    return out

  def empty_batch(
    self, lead: tuple[int, ...], pad_actions_to: int | None = None
  ) -> dict[str, np.ndarray]:
    """Arrays for `sample` to fill, with leading axes; actions are zeros."""
    width = pad_actions_to or self.action_dim
    if width < self.action_dim:
      raise ValueError(f'{width} actions cannot hold {self.action_dim}.')
    frame = self._episodes[0]['image'].shape[1:]
    return {
      'image': np.empty((*lead, *frame), np.uint8),
      'action': np.zeros((*lead, width), np.float32),
      'reward': np.empty(lead, np.float32),
      'is_first': np.empty(lead, bool),
    }

  def stats(self) -> dict[str, float]:
    """Counts, bytes, lengths and mean return of what is held."""
    stats = {
      'episodes': self.num_episodes,
      'frames': self.num_frames,
      'total_episodes': self.total_episodes,
      'capacity_frames': self._capacity,
      'bytes': sum(v.nbytes for e in self._episodes for v in e.values()),
    }
    if self._episodes:
      lengths = [file.length for file in self._files]
      stats['shortest'], stats['longest'] = min(lengths), max(lengths)
      returns = [float(e['reward'].sum()) for e in self._episodes]
      stats['return_mean'] = float(np.mean(returns))
    return stats

  def _source(self) -> list[eps.EpisodeFile]:
    files = eps.list_episodes(self.directory)
    if not files:
      raise UserError(
        f'{self.directory}: no episodes here; collect them with '
        '--config.stages="(\'collect\',)" or point to another folder.'
      )
    return files

  def _claim(self, keep: int | None) -> list[eps.EpisodeFile]:
    """The owner's files, cleaned of what the checkpoint does not know."""
    eps.make_folder(self.directory)
    eps.clean(self.directory)
    files = eps.list_episodes(self.directory)
    kept = [file for file in files if keep is None or file.index < keep]
    last = kept[-1].index + 1 if kept else 0
    written = last if keep is None else keep
    indices = [file.index for file in kept] or [0]
    missing = sorted(set(range(indices[0], written)) - {f.index for f in kept})
    if missing:
      raise UserError(
        f'{self.directory}: this run has written {written} episodes, of which '
        f'{len(missing)} are missing (the first is number {missing[0]}); put '
        'them back, or start in a new --workdir.'
      )
    for file in files[len(kept) :]:
      file.path.unlink()
    return kept

  def _load(self, files: list[eps.EpisodeFile]) -> None:
    frames = np.cumsum([file.length for file in reversed(files)])
    fitting = max(1, int(np.searchsorted(frames, self._capacity, 'right')))
    self._released = files[:-fitting]
    for file in files[-fitting:]:
      episode = eps.load(file.path)
      self._validate(episode, file.path)
      self._hold(file, episode)

  def _validate(self, episode, where) -> None:
    eps.validate(episode, where, self._size, self.action_dim)
    # The first episode decides for the others what was left open.
    self.action_dim = self.action_dim or episode['action'].shape[1]
    self._size = self._size or episode['image'].shape[1]

  def _hold(self, file, episode) -> None:
    self._episodes.append({key: episode[key] for key in KEYS})
    self._files.append(file)
    self.num_frames += file.length
    while self.num_frames > self._capacity and len(self._episodes) > 1:
      self._episodes.pop(0)
      self._released.append(self._files.pop(0))
      self.num_frames -= self._released[-1].length
    self._starts = None

  def _cumulative(self, length: int) -> np.ndarray:
    """For each episode, the starts up to and with it; [num_episodes]."""
    if self._starts is None or self._starts[0] != length:
      lengths = np.array([file.length for file in self._files], np.int64)
      starts = np.maximum(lengths - length + 1, 0)
      self._starts = (length, np.cumsum(starts))
    return self._starts[1]

  def _too_short(self, length: int) -> str:
    if not self._episodes:
      return f'{self.directory}: no episode has ended yet, none to sample.'
    longest = max(file.length for file in self._files)
    return (
      f'{self.directory}: no episode is long enough for chunks of {length} '
      f'frames, the longest has {longest}; lower the batch length or collect '
      'longer episodes.'
    )
