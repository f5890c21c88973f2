"""Episodes held for sampling chunks of them, and their dataset folder."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from vid2act_jax.data import dataset, files, store
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.types import UserError


class DerivedColumn(NamedTuple):
  """What is computed of an episode's frames once, and sampled with them."""

  column: store.Column
  compute: Callable[[np.ndarray], np.ndarray]  # u8 [T, ...] -> [T, *shape]
  replaces_image: bool  # the images themselves are then not held


class _Held(NamedTuple):
  """An episode in the ring."""

  file: eps.EpisodeFile
  position: int  # of its first record
  total: float  # its return


class Replay:
  """Whole episodes up to a bound in bytes; the oldest leave first.

  What is held is always the longest run of newest episodes that fits: a
  function of the files alone, so that a resumed run holds what the interrupted
  one did. The frames lie in a `Ring` on disk, of which the system keeps in
  memory what there is room for.

  An owner (online replay) adds episodes: each is written to its folder and
  durable before it counts, and those no longer held are deleted from disk by
  `release`. Without ownership (a source dataset) the folder is only read.

  Chunks are drawn by position and copied out, which takes no more than copying
  does: a loader with workers, such as grain, would have nothing to do.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    capacity_bytes: float,
    seed: int,
    action_dim: int | None = None,
    size: int | None = None,
    owner: bool = False,
    keep_episodes: int | None = None,
    scratch: str | os.PathLike | None = None,
    cross_episodes: bool = False,
    keep_all: bool = False,
    embed: DerivedColumn | None = None,
  ):
    """Loads and validates what the folder holds.

    Args:
      directory: a dataset folder; an owner makes it.
      capacity_bytes: the bound on what is held, `frame_bytes` a frame.
      seed: of the batches, not negative.
      action_dim: the actions' A; None: that of the first episode.
      size: the frames' height and width; None: that of the first episode.
      owner: whether episodes may be added and deleted.
      keep_episodes: the `total_episodes` of the checkpoint to resume from;
        an owner deletes all later episodes. None: all are kept.
      scratch: folder on whose disk the frames are held; None: the system's
        temporary folder.
      cross_episodes: whether a chunk may run on into the next episode, where
        `is_first` is set.
      keep_all: whether episodes that are no longer held stay on disk.
      embed: makes the column `embed` of every episode's frames; None: there is
        no such column.

    Raises:
      UserError: the folder has no episodes (not an owner), an episode is
        damaged, wrong or larger than the bound, one that the checkpoint knows
        is missing, or the scratch folder cannot be used.
    """
    if capacity_bytes < 1 or seed < 0:
      raise UserError(
        f'Replay needs a capacity of at least 1 byte and a seed of at least '
        f'0, not {capacity_bytes} and {seed}.'
      )
    if keep_episodes is not None and not owner:
      raise ValueError('Only an owner may drop episodes.')
    self.directory = pathlib.Path(directory)
    self.action_dim = action_dim
    self._capacity_bytes = capacity_bytes
    self._seed = seed
    self._size = size
    self._owner = owner
    self._scratch = pathlib.Path(scratch or tempfile.gettempdir())
    self._cross = cross_episodes
    self._keep_all = keep_all
    self._embed = embed
    self._assembler = EpisodeBuilder()
    self._ring: store.Ring | None = None  # Made when the sizes are known.
    self._written = 0  # Records, ever: the position of the next episode.
    self._held: list[_Held] = []
    self._released: list[eps.EpisodeFile] = []  # Not held, still on disk.
    self._starts: tuple[int, np.ndarray] | None = None
    self.num_frames = 0
    if owner:
      known = dataset.claim_episodes(self.directory, keep_episodes)
    else:
      known = dataset.find_episodes(self.directory)
    self.total_episodes = known[-1].index + 1 if known else 0
    self._load(known)

  @property
  def num_episodes(self) -> int:
    """Episodes held."""
    return len(self._held)

  @property
  def episodes_on_disk(self) -> int:
    """Episodes held and those that are on disk only."""
    return len(self._held) + len(self._released)

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

  def reopen(self, env: int, obs: Mapping[str, np.ndarray], action) -> None:
    """Takes a frame again, of an episode that was under way.

    Args:
      env: the environment's number.
      obs: its row of what `VectorEnv.step` returned.
      action: [A], the action that led there.
    """
    self._assembler.add_one(env, obs, action)

  def release(self) -> None:
    """Deletes from disk what is no longer held.

    To be called when a checkpoint that holds the present `total_episodes` is
    durable: until then, a resumed run may need the old episodes again.
    """
    if not self._owner:
      raise ValueError(f'{self.directory} is a source: it is only read.')
    if self._keep_all:
      return
    for file in self._released:
      file.path.unlink(missing_ok=True)
    self._released = []

  def num_starts(self, length: int) -> int:
    """In how many places a chunk of this length can start."""
    return int(self._cumulative(length)[-1]) if self._held else 0

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
    """Batch number `index`: chunks uniform over all places they can start.

    A pure function of the arguments, the seed and the episodes held: there is
    no sampler to save.

    Args:
      index: the batch's number, as the learner's step.
      batch: B chunks.
      length: L frames each.
      pad_actions_to: A of the result, zeros behind the episodes' own.
      stream: independent draws for the same index and seed.
      out: arrays to fill instead of new ones, its actions' padding zeros; not
        those that a device may still be reading.
      rows: only these of the batch, B' of B.

    Returns:
      image u8 [B, L, H, W, 3], action f32 [B, L, A], reward f32 [B, L],
      is_first bool [B, L], discount f32 [B, L]; with `embed` its column
      [B, L, ...], perhaps in the images' place.

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
    places = random.integers(0, ends[-1], batch)[rows]
    owners = np.searchsorted(ends, places, side='right')
    if out is None:
      out = self.empty_batch((len(places), length), pad_actions_to)
    for row, (place, owner) in enumerate(zip(places, owners, strict=True)):
      held = self._held[owner]
      begins = ends[owner - 1] if owner else 0
      self._ring.read(
        held.position + int(place - begins), {k: v[row] for k, v in out.items()}
      )
    return out

  def empty_batch(
    self, lead: tuple[int, ...], pad_actions_to: int | None = None
  ) -> dict[str, np.ndarray]:
    """Arrays for `sample` to fill, with leading axes; actions are zeros."""
    width = pad_actions_to or self.action_dim
    if width < self.action_dim:
      raise ValueError(f'{width} actions cannot hold {self.action_dim}.')
    out = self._ring.empty(lead)
    out['action'] = np.zeros((*lead, width), np.float32)
    return out

  def stats(self) -> dict[str, float]:
    """Counts, bytes, lengths and mean return of what is held."""
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
      stats['return_mean'] = float(np.mean([h.total for h in self._held]))
    return stats

  def _load(self, known: list[eps.EpisodeFile]) -> None:
    if not known:
      return
    if not (self._size and self.action_dim):
      self._validate(eps.load(known[0].path), known[0].path)
    capacity = self._capacity_frames()
    frames = np.cumsum([file.length for file in reversed(known)])
    fitting = max(1, int(np.searchsorted(frames, capacity, 'right')))
    self._released = known[:-fitting]
    for file in known[-fitting:]:
      episode = eps.load(file.path)
      self._validate(episode, file.path)
      self._hold(file, episode)

  @property
  def frame_bytes(self) -> int:
    """Bytes a frame takes of the bound.

    What is held beside an image comes on top of it: how many frames are there
    to learn from must not depend on how many sources the embeddings are of.
    """
    columns = self._columns()
    if self._embed and not self._embed.replaces_image:
      del columns['embed']
    return store.record_bytes(columns)

  def _columns(self) -> dict[str, store.Column]:
    columns = store.frame_columns(self._size, self.action_dim)
    if self._embed:
      columns['embed'] = self._embed.column
      if self._embed.replaces_image:
        del columns['image']
    return columns

  def _capacity_frames(self) -> int:
    return int(self._capacity_bytes // self.frame_bytes)

  def _validate(self, episode, where) -> None:
    eps.validate(episode, where, self._size, self.action_dim)
    # The first episode decides for the others what was left open.
    self.action_dim = self.action_dim or episode['action'].shape[1]
    self._size = self._size or episode['image'].shape[1]

  def _hold(self, file, episode) -> None:
    capacity = self._capacity_frames()
    if file.length > capacity:
      raise UserError(
        f'{file.path}: {file.length} frames are more than replay may hold, '
        f'{capacity} ({self._capacity_bytes:.3g} bytes); raise the bound in '
        'config.replay.'
      )
    if not self._ring:
      self._ring = store.Ring(
        files.make_folder(self._scratch), capacity, self._columns()
      )
    while self.num_frames + file.length > capacity:
      leaving = self._held.pop(0).file
      self._released.append(leaving)
      self.num_frames -= leaving.length
    records = dict(episode)
    if self._embed:
      records['embed'] = self._embed.compute(episode['image'])
    self._ring.write(self._written, records)
    total = eps.summarize(episode)['return']
    self._held.append(_Held(file, self._written, total))
    self._written += file.length
    self.num_frames += file.length
    self._starts = None

  def _cumulative(self, length: int) -> np.ndarray:
    """For each episode, the starts up to and with it; [num_episodes]."""
    if self._starts is None or self._starts[0] != length:
      lengths = np.array([held.file.length for held in self._held], np.int64)
      if self._cross:
        # Every frame that has enough behind it, in whichever episode.
        starts = np.minimum(np.cumsum(lengths), self.num_frames - length + 1)
        starts = np.diff(np.maximum(starts, 0), prepend=0)
      else:
        starts = np.maximum(lengths - length + 1, 0)
      self._starts = (length, np.cumsum(starts))
    return self._starts[1]

  def _too_short(self, length: int) -> str:
    if not self._held:
      return f'{self.directory}: no episode has ended yet, none to sample.'
    longest = max(held.file.length for held in self._held)
    return (
      f'{self.directory}: no episode is long enough for chunks of {length} '
      f'frames, the longest has {longest}; lower the batch length, collect '
      'longer episodes, or set config.replay.cross_episodes.'
    )
