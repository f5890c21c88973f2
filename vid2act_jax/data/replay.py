"""Replay: episodes of a dataset folder, for sampling chunks."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vid2act_jax.data import dataset, files, splits, store
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.types import UserError


class DerivedColumn(NamedTuple):
  """A column computed once from an episode's images and sampled with them."""

  column: store.Column
  compute: Callable[[np.ndarray], np.ndarray]  # u8 [T, ...] -> [T, *shape]
  replaces_image: bool  # if True, the images are not held


@dataclasses.dataclass(frozen=True)
class ReplayOptions:
  """Shapes and storage of a `Replay`.

  action_dim: A of the actions; None: that of the first episode.
  size: height and width of the frames; None: those of the first episode.
  scratch: folder for the files of the ring buffer; None: the system's temporary
    folder.
  cross_episodes: whether a chunk may continue into the next episode, where
    `is_first` is set.
  keep_all: whether evicted episodes stay on disk.
  embed: computes the column `embed` from every episode's images; None: no such
    column.
  held_out: share of a source dataset's episodes that is never sampled; see
    `splits.split_episodes`.
  """

  action_dim: int | None = None
  size: int | None = None
  scratch: str | os.PathLike | None = None
  cross_episodes: bool = False
  keep_all: bool = False
  embed: DerivedColumn | None = None
  held_out: float = 0.0


class TooShort(UserError):
  """No episode is long enough for a chunk.

  longest: frames of the longest chunk that could be sampled.
  total: frames of all episodes.
  """

  def __init__(self, text: str, longest: int, total: int):
    """text: the message."""
    super().__init__(text)
    self.longest, self.total = longest, total


def check_lengths(
  directory: str | os.PathLike,
  lengths: Sequence[int],
  length: int,
  cross_episodes: bool,
) -> None:
  """Checks that chunks can be sampled from episodes of these lengths.

  Args:
    directory: of the episodes, for the message.
    lengths: frames of each episode, at least one.
    length: L, frames per chunk.
    cross_episodes: whether a chunk may continue into the next episode.

  Raises:
    TooShort: they cannot.
  """
  total = sum(lengths)
  longest = total if cross_episodes else max(lengths)
  if longest < length:
    have = f'all together have {total}'
    if not cross_episodes:
      have = f'the longest has {longest}'
    raise TooShort(
      f'{directory}: no episode is long enough for chunks of {length} frames,'
      f' {have}',
      longest,
      total,
    )


_DEFAULTS = ReplayOptions()


class _HeldEpisode(NamedTuple):
  """An episode in the ring buffer."""

  file: eps.EpisodeFile
  position: int  # of its first record
  episode_return: float


def count_fitting(
  listed: Sequence[eps.EpisodeFile], capacity_frames: int
) -> int:
  """Number of the newest episodes that fit a replay, at least 1."""
  frames = np.cumsum([file.length for file in reversed(listed)])
  return max(1, int(np.searchsorted(frames, capacity_frames, 'right')))


class Replay:
  """Whole episodes up to a capacity in bytes; the oldest are evicted first.

  The replay holds the newest episodes that fit. This depends on the files
  alone, so a resumed run holds the same episodes as the interrupted one. The
  frames are in a `RingBuffer` on disk, which the system caches in memory.

  An owner (online replay) adds episodes: each is durable in the folder before
  it can be sampled, and `delete_evicted` deletes evicted ones from disk. If it
  is not an owner (a source dataset), the folder is only read.

  Sampling copies chunks by position and costs no more than the copy: a loader
  with workers, such as grain, would not speed it up.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    capacity_bytes: float,
    seed: int,
    options: ReplayOptions = _DEFAULTS,
    owner: bool = False,
    keep_episodes: int | None = None,
  ):
    """Loads and validates the episodes of the folder.

    Args:
      directory: a dataset folder; an owner creates it.
      capacity_bytes: upper bound on the held frames, `frame_bytes` per frame.
      seed: of the batches, not negative.
      options: shapes and storage.
      owner: whether episodes may be added and deleted.
      keep_episodes: the `total_episodes` of the checkpoint to resume from;
        an owner deletes all later episodes. None: all are kept.

    Raises:
      UserError: the folder has no episodes (not an owner), an episode is
        damaged, invalid or larger than the capacity, one that the checkpoint
        knows is missing, or the scratch folder cannot be used.
    """
    if capacity_bytes < 1 or seed < 0:
      raise UserError(
        f'Replay needs a capacity of at least 1 byte and a seed of at least '
        f'0, not {capacity_bytes} and {seed}.'
      )
    if keep_episodes is not None and not owner:
      raise ValueError('Only an owner may drop episodes.')
    if owner and options.held_out:
      raise ValueError('Only episodes of a source can be held out.')
    self.directory = pathlib.Path(directory)
    self.action_dim = options.action_dim
    self._capacity_bytes = capacity_bytes
    self._seed = seed
    self._size = options.size
    self._owner = owner
    self._scratch = pathlib.Path(options.scratch or tempfile.gettempdir())
    self._cross = options.cross_episodes
    self._keep_all = options.keep_all
    self._embed = options.embed
    self._builder = EpisodeBuilder()
    self._ring: store.RingBuffer | None = None  # Created once sizes are known.
    self._written = 0  # Records in total: the next position.
    self._held: list[_HeldEpisode] = []
    self._evicted: list[eps.EpisodeFile] = []  # Not held, still on disk.
    self._starts: tuple[int, np.ndarray] | None = None
    self._on_write: list[Callable[[int, Mapping], None]] = []
    self.num_frames = 0
    if owner:
      listed = dataset.restore_episodes(self.directory, keep_episodes)
    else:
      listed = dataset.find_episodes(self.directory)
    self.total_episodes = listed[-1].index + 1 if listed else 0
    listed, held_out = splits.split_episodes(listed, options.held_out, seed)
    self._num_held_out = len(held_out)
    self._load(listed)

  @property
  def num_episodes(self) -> int:
    """Number of episodes held."""
    return len(self._held)

  @property
  def episodes_on_disk(self) -> int:
    """Number of episodes held, and of evicted and held-out ones on disk."""
    return len(self._held) + len(self._evicted) + self._num_held_out

  def add(
    self, obs: Mapping[str, np.ndarray], actions: np.ndarray
  ) -> list[dict]:
    """Adds one step of E environments; an episode is stored when it ends.

    Args:
      obs: output of `VectorEnv.step`, arrays [E, ...].
      actions: [E, A], the input of that step (prev_action); ignored at resets.

    Returns:
      For each episode that ended: {'return', 'length', 'success'?}, length in
      frames.

    Raises:
      UserError: the episode is not valid or cannot be written.
    """
    if not self._owner:
      raise ValueError(f'{self.directory} is a source: it is only read.')
    summaries = []
    for episode in self._builder.add(obs, actions):
      where = f'{self.directory}, new episode {self.total_episodes}'
      self._validate(episode, where)
      path = eps.save(self.directory, self.total_episodes, episode)
      length = len(episode['reward'])
      self._hold(eps.EpisodeFile(path, self.total_episodes, length), episode)
      self.total_episodes += 1
      summaries.append(eps.summarize(episode))
    return summaries

  def restore_step(
    self, env: int, obs: Mapping[str, np.ndarray], action
  ) -> None:
    """Adds a frame of an unfinished episode again when a run resumes.

    Args:
      env: index of the environment.
      obs: its row of the output of `VectorEnv.step`.
      action: [A], the input of that step (prev_action).
    """
    self._builder.add_one(env, obs, action)

  def held_records(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields (position, records [T, ...]) of every held episode, in order."""
    for held in self._held:
      assert self._ring is not None  # There are episodes.
      records = self._ring.empty((held.file.length,))
      self._ring.read(held.position, records)
      yield held.position, records

  def subscribe(self, on_write: Callable[[int, Mapping], None]) -> None:
    """Calls a function with (position, records [T, ...]) of new episodes."""
    self._on_write.append(on_write)

  def delete_evicted(self) -> None:
    """Deletes evicted episodes from disk.

    Call it once a checkpoint with the current `total_episodes` is durable:
    until then, a resumed run may need the evicted episodes again.
    """
    if not self._owner:
      raise ValueError(f'{self.directory} is a source: it is only read.')
    if self._keep_all:
      return
    for file in self._evicted:
      file.path.unlink(missing_ok=True)
    self._evicted = []

  def num_starts(self, length: int) -> int:
    """Number of positions where a chunk of this length can start."""
    return int(self._cumulative_starts(length)[-1]) if self._held else 0

  def sample(
    self,
    index: int,
    batch: int,
    length: int,
    pad_actions_to: int | None = None,
    stream: int = 0,
    out: dict[str, np.ndarray] | None = None,
    rows: slice = slice(None),
  ) -> dict[str, np.ndarray]:
    """Batch number `index`: chunks that start uniformly at all positions.

    A pure function of the arguments, the seed and the episodes held: there is
    no sampler state to save.

    Args:
      index: number of the batch, such as the learner's step.
      batch: B, the number of chunks.
      length: L, frames per chunk.
      pad_actions_to: A of the result; actions are padded with zeros.
      stream: gives independent samples for the same index and seed.
      out: arrays to fill instead of new ones, with zeros as action padding; a
        device must not be reading them.
      rows: the rows of the batch to return, B' of B.

    Returns:
      image u8 [B, L, H, W, 3], action f32 [B, L, A], reward f32 [B, L],
      is_first bool [B, L], discount f32 [B, L]; with `embed` also its
      column [B, L, ...], which may replace the images.

    Raises:
      TooShort: no episode is long enough.
      UserError: there is no episode.
    """
    positions = self.positions(index, batch, length, stream, rows)
    if out is None:
      out = self.empty_batch((len(positions), length), pad_actions_to)
    assert self._ring is not None  # There are episodes.
    for row, position in enumerate(positions):
      self._ring.read(int(position), {k: v[row] for k, v in out.items()})
    return out

  def positions(
    self,
    index: int,
    batch: int,
    length: int,
    stream: int = 0,
    rows: slice = slice(None),
  ) -> np.ndarray:
    """Where the chunks of `sample` with these arguments start.

    Args:
      index: see `sample`, as the other arguments.
      batch: B.
      length: L.
      stream: of the samples.
      rows: the rows of the batch to return, B' of B.

    Returns:
      i64 [B'], positions of their first records in the ring buffer.

    Raises:
      TooShort: no episode is long enough.
      UserError: there is no episode.
    """
    if not self._held:
      raise UserError(
        f'{self.directory}: no episode has ended yet, nothing to sample.'
      )
    if not self.num_starts(length):
      lengths = [held.file.length for held in self._held]
      check_lengths(self.directory, lengths, length, self._cross)
    cumulative = self._cumulative_starts(length)
    random = np.random.Generator(
      # Distinct for every seed, index and stream.
      np.random.Philox(key=[self._seed, index], counter=[0, 0, 0, stream])
    )
    starts = random.integers(0, cumulative[-1], batch)[rows]
    episodes = np.searchsorted(cumulative, starts, side='right')
    first = np.concatenate([[0], cumulative])[episodes]
    held = np.array([held.position for held in self._held], np.int64)
    return held[episodes] + starts - first

  def empty_batch(
    self, batch_shape: tuple[int, ...], pad_actions_to: int | None = None
  ) -> dict[str, np.ndarray]:
    """Arrays [*batch_shape, ...] for `sample` to fill; actions are zeros."""
    assert self._ring is not None and self.action_dim is not None
    width = pad_actions_to or self.action_dim
    if width < self.action_dim:
      raise ValueError(f'{width} actions cannot hold {self.action_dim}.')
    out = self._ring.empty(batch_shape)
    out['action'] = np.zeros((*batch_shape, width), np.float32)
    return out

  def stats(self) -> dict[str, float]:
    """Counts, bytes, lengths and mean return of the held episodes."""
    stats = {
      'episodes': self.num_episodes,
      'frames': self.num_frames,
      'total_episodes': self.total_episodes,
      'capacity_bytes': self._capacity_bytes,
    }
    if self._held:
      stats['bytes'] = self.num_frames * self.frame_bytes
      lengths = [held.file.length for held in self._held]
      stats['shortest'], stats['longest'] = min(lengths), max(lengths)
      stats['return_mean'] = float(
        np.mean([h.episode_return for h in self._held])
      )
    return stats

  def _load(self, listed: list[eps.EpisodeFile]) -> None:
    if not listed:
      return
    if not (self._size and self.action_dim):
      self._validate(eps.load(listed[0].path), listed[0].path)
    num_fitting = count_fitting(listed, self.capacity)
    self._evicted = listed[:-num_fitting]
    for file in listed[-num_fitting:]:
      episode = eps.load(file.path)
      self._validate(episode, file.path)
      self._hold(file, episode)

  @property
  def frame_bytes(self) -> int:
    """Bytes per frame that count towards the capacity.

    An embedding held in addition to an image does not count: the number of
    frames held must not depend on the number of sources.
    """
    columns = self.columns
    if self._embed and not self._embed.replaces_image:
      del columns['embed']
    return store.record_bytes(columns)

  @property
  def columns(self) -> dict[str, store.Column]:
    """The columns of a record; sizes must be known or an episode be held."""
    assert self._size is not None and self.action_dim is not None
    columns = store.frame_columns(self._size, self.action_dim)
    if self._embed:
      columns['embed'] = self._embed.column
      if self._embed.replaces_image:
        del columns['image']
    return columns

  @property
  def capacity(self) -> int:
    """Maximum number of frames held."""
    return int(self._capacity_bytes // self.frame_bytes)

  def _validate(self, episode, where) -> None:
    eps.validate(episode, where, self._size, self.action_dim)
    # The first episode sets the sizes that were not given.
    self.action_dim = self.action_dim or episode['action'].shape[1]
    self._size = self._size or episode['image'].shape[1]

  def _hold(self, file, episode) -> None:
    capacity = self.capacity
    if file.length > capacity:
      raise UserError(
        f'{file.path}: {file.length} frames are more than the replay '
        f'capacity, {capacity} ({self._capacity_bytes:.3g} bytes); set '
        f'config.replay.{"online_gb" if self._owner else "source_gb"} higher, '
        'in a new folder if this one has results.'
      )
    if not self._ring:
      self._ring = store.RingBuffer(
        files.make_folder(self._scratch), capacity, self.columns
      )
    while self.num_frames + file.length > capacity:
      evicted = self._held.pop(0).file
      self._evicted.append(evicted)
      self.num_frames -= evicted.length
    records = dict(episode)
    if self._embed:
      records['embed'] = self._embed.compute(episode['image'])
    self._ring.write(self._written, records)
    episode_return = eps.summarize(episode)['return']
    position, self._written = self._written, self._written + file.length
    self._held.append(_HeldEpisode(file, position, episode_return))
    self.num_frames += file.length
    self._starts = None
    for on_write in self._on_write:
      on_write(position, records)

  def _cumulative_starts(self, length: int) -> np.ndarray:
    """Cumulative number of starts over the held episodes, [num_episodes]."""
    if self._starts is None or self._starts[0] != length:
      lengths = np.array([held.file.length for held in self._held], np.int64)
      if self._cross:
        # Every frame with enough frames after it, across episodes.
        starts = np.minimum(np.cumsum(lengths), self.num_frames - length + 1)
        starts = np.diff(np.maximum(starts, 0), prepend=0)
      else:
        starts = np.maximum(lengths - length + 1, 0)
      self._starts = (length, np.cumsum(starts))
    return self._starts[1]
