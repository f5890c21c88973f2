"""Studies: their points, and the grid that runs them."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.grid import __main__ as grid
from experiments.grid import configs, jobs, runner
from experiments.grid.runner import Runner, describe
from experiments.studies import shift, sources
from vid2act_jax import envs
from vid2act_jax.data import dataset, files
from vid2act_jax.loops import runs, setup
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / 'experiments' / 'studies'
STUDIES = sorted(
  path.stem
  for path in FOLDER.glob('*.py')
  if 'def get_study' in path.read_text()
)
DEBUG = str(ROOT / 'experiments' / 'debug.py')
# Stands for experiments.run: quick, and does what files beside it say.
FAKE = """
import pathlib, shutil, signal, sys, time
here = pathlib.Path(__file__).parent
kind, = {name for a in sys.argv for name in ('collect', 'pretrain', 'finetune')
         if a == f"--config.stages=('{name}',)"}
value = lambda key: [a.split('=', 1)[1] for a in sys.argv
                     if a.startswith(key + '=')][-1]
workdir = pathlib.Path(value('--workdir'))
workdir.mkdir(parents=True, exist_ok=True)
with open(here / 'order', 'a') as file:
  file.write(workdir.name + '\\n')
print('the last words', flush=True)
if (here / f'fail {workdir.name}').exists():
  sys.exit(3)
if (here / f'wait {workdir.name}').exists():
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  (here / 'waits').touch()
  time.sleep(60)
if kind == 'collect':
  task = eval(value('--config.sources'))[0]
  shutil.copytree(here / 'dataset',
                  pathlib.Path(value('--config.source_dir')) / task)
else:
  made = workdir / {'pretrain': 'teacher', 'finetune': 'student'}[kind]
  made.mkdir()
  (made / 'DONE.json').write_text('{"step": 6, "env_steps": 100}')
"""


def plan(name, out, seeds=1, overrides=(), base=DEBUG):
  study = FOLDER / f'{name}.py'
  return jobs.make(str(study), base, seeds, list(overrides), out, out)


# What the studies are.


@pytest.mark.parametrize('name', STUDIES)
def test_every_study_is_sound(name, tmp_path):
  """On the debug experiment: its configs are ones of a run, and fit."""
  found = plan(name, tmp_path, 2)
  names = [p.name for p in found]
  assert len(set(names)) == len(names) == len({p.workdir for p in found})
  assert [p.kind for p in found] == sorted(
    (p.kind for p in found), key=jobs.KINDS.index
  )
  for index, point in enumerate(found):
    assert set(point.needs) <= set(names[:index])
    config = point.config
    variant = setup.variant(config)
    if point.kind != 'runs' or not variant.pretrained:
      assert point.kind == 'datasets' or variant.pretrained or not point.needs
      continue
    # Its teacher is of its sources, its seed and its kind.
    (teacher,) = [
      p for p in found if p.kind == 'teachers' and p.name in point.needs
    ]
    assert config.teacher_from == str(teacher.workdir)
    assert teacher.config.sources == config.sources
    assert teacher.config.seed == config.seed
    assert setup.variant(teacher.config).actions == variant.actions
    assert len(point.needs) == 1 + len(config.sources)
    assert config.source_dir == str(tmp_path / 'sources')
  seeds = {p.config.seed for p in found if p.kind == 'runs'}
  assert seeds == {0, 1}


def test_work_is_shared(tmp_path):
  found = plan('ablation', tmp_path, 2)
  kinds = [p.kind for p in found]
  # With actions and without, of two seeds; datasets of one.
  assert kinds.count('datasets') == 2 and kinds.count('teachers') == 4
  assert kinds.count('runs') == 2 * (8 + 2)
  teachers = [p.name for p in found if p.kind == 'teachers']
  # Another study finds the same ones there, if it pretrains alike.
  other = plan('pretraining', tmp_path, 2, ['--config.finetune.log_every=3'])
  assert [p.name for p in other if p.kind == 'teachers'] == teachers
  other = plan('pretraining', tmp_path, 2, ['--config.pretrain.steps=7'])
  assert not {p.name for p in other} & set(teachers)


def test_a_study_goes_before_the_command_line(tmp_path):
  given = ["--config.sources=('probe_wide','probe_count','probe_noise')"]
  found = plan('sources', tmp_path, 1, given)
  lists = [p.config.sources for p in found if p.kind == 'runs'][1:]
  assert [len(tasks) for tasks in lists] == [1, 2]
  assert [len(p.config.sources) for p in found if p.kind == 'datasets'] == [
    1, 1
  ]  # fmt: skip
  for point in found:
    told = [a for a in point.arguments if a.startswith('--config.sources=')]
    assert len(told) == 1


def test_what_is_given_is_used(tmp_path):
  given = '--config.teacher_from=mine.npz', '--config.source_dir=/data'
  found = plan('pretraining', tmp_path, 1, given)
  assert [p.kind for p in found].count('teachers') == 0
  run = found[-4]
  assert run.config.teacher_from == 'mine.npz'
  assert run.config.source_dir == '/data'


def test_numbers_of_sources_are_nested():
  config = configs.load([f'--config={FOLDER}/small.py'])
  found = sources.get_study(config)
  lists = [p['sources'] for p in found.values() if 'sources' in p]
  assert [len(tasks) for tasks in lists] == [1, 2, 4, 8]
  for fewer, more in zip(lists, lists[1:], strict=False):
    assert more[: len(fewer)] == fewer
  assert set(config.sources) <= set(lists[-1])
  assert len({t.split('@')[0] for t in lists[-1]} | {config.task}) == 9
  assert found == sources.get_study(config)
  batches = {p['pretrain.batch'] for p in found.values() if 'sources' in p}
  assert batches == {8} and config.pretrain.batch == 5


@pytest.mark.parametrize('suite', sources.POOL)
def test_tasks_of_the_pool_are_there(suite):
  assert len(sources.POOL[suite]) > sources.NUMBERS[-1]
  for task in sources.POOL[suite]:
    envs.check(task)


def test_cameras_are_counted():
  config = configs.load([f'--config={FOLDER}/small.py'])
  found = shift.get_study(config)
  # It has two, one of which is its own.
  name = 'dmc_cartpole_swingup@camera=0'
  assert found['camera_0']['sources'] == (name,)
  assert 'camera_1' not in found and 'camera_2' not in found
  assert found['camera_all']['sources'] == (config.task, name)
  assert len(found['mass_all']['sources']) == 5


def test_the_page_tells_the_numbers(tmp_path):
  """Of docs/studies.md, for the array of the example."""
  found = plan('ablation', tmp_path, 3, base=str(FOLDER / 'small.py'))
  kinds = [p.kind for p in found]
  ranges = [
    f'{kinds.index(kind)}-{kinds.index(kind) + kinds.count(kind) - 1}'
    for kind in jobs.KINDS
  ]
  page = (ROOT / 'docs' / 'studies.md').read_text()
  assert re.findall(r'--array=([\d-]+)', page) == ranges
  for name in STUDIES:
    assert f'| `{name}.py` |' in page


# How a grid runs.


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """Points of a study with a program that only pretends; its folder."""
  env = envs.make('probe_wide', envs.Settings(), 0)
  made = tmp_path / 'dataset'
  (tmp_path / 'fake.py').write_text(FAKE)
  files.make_folder(made)
  how = {'method': 'collect', 'policy': 'random', 'seed': 0}
  dataset.write_metadata(made, 'probe_wide', how, env.description, True)
  program = sys.executable, str(tmp_path / 'fake.py')
  monkeypatch.setattr(runner, 'PROGRAM', program)
  monkeypatch.setattr(runner, '_LOOK', 0.1)
  return tmp_path


def order(fake):
  return (fake / 'order').read_text().split()


def test_runs_all_and_then_nothing(fake):
  found, said = plan('pretraining', fake / 'out'), []
  assert set(describe(found).values()) == {'todo'}
  assert Runner(found, [None] * 3, say=said.append).run() == 0
  started = order(fake)
  assert sorted(started) == sorted(p.name for p in found)
  for point in found:
    for name in point.needs:
      assert started.index(name) < started.index(point.name)
  assert said[0] == '0 of 8 points are done'
  assert sum('] ' in line for line in said) == 8
  assert set(describe(found).values()) == {'done'}
  assert Runner(found, [None]).run() == 0
  assert order(fake) == started
  # What is no longer needed may be gone; what another config made is not it.
  shutil.rmtree(fake / 'out' / 'sources')
  states = describe(found)
  assert [states[p.name] for p in found[:2]] == ['spare', 'spare']
  assert Runner(found, [None]).run() == 0 and order(fake) == started
  other = plan('pretraining', fake / 'out', 1, ['--config.env.time_limit=9'])
  runs.init_workdir(found[-1].workdir, other[-1].config)
  assert describe(found)[found[-1].name] == 'half'


def test_each_job_has_its_gpu(fake, monkeypatch):
  program = fake / 'fake.py'
  program.write_text(
    'import os; print("GPU", os.environ["CUDA_VISIBLE_DEVICES"])\n'
    + program.read_text()
  )
  found = plan('pretraining', fake / 'out')
  assert Runner(found, ['4', '7']).run() == 0
  said = {re.search('GPU (.)', runner.log_of(p).read_text())[1] for p in found}
  assert said == {'4', '7'}


def test_failed_point_is_told(fake):
  found, said = plan('pretraining', fake / 'out'), []
  (fake / 'fail collect-probe_count').touch()
  assert Runner(found, [None], say=said.append).run() == 1
  assert order(fake) == ['collect-probe_wide', 'collect-probe_count']
  assert '  | the last words' in said[-1]
  assert describe(found)['collect-probe_count'] == 'failed'
  # What does not need it goes on if wished.
  assert Runner(found, [None], True, said.append).run() == 1
  assert order(fake)[2:] == ['collect-probe_count', 'dreamerv2-0']
  assert said[-3].endswith('need collect-probe_count: 5 points')
  (fake / 'fail collect-probe_count').unlink()
  assert Runner(found, [None]).run() == 0
  assert set(describe(found).values()) == {'done'}


def test_asked_to_stop_it_saves_and_goes_on(fake):
  found, said = plan('pretraining', fake / 'out'), []
  waits = [p for p in found if p.kind == 'teachers'][0].name
  (fake / f'wait {waits}').touch()

  def stop():
    while not (fake / 'waits').exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=stop)
  thread.start()
  assert Runner(found, [None], say=said.append).run() == runner.EXIT_STATUS
  thread.join()
  assert said[-1] == f'{waits}: saved, the same command goes on'
  assert describe(found)[waits] == 'half' and order(fake)[-1] == waits
  (fake / f'wait {waits}').unlink()
  assert Runner(found, [None]).run() == 0
  assert order(fake).count(waits) == 2


def test_two_grids_share_the_points(fake):
  found, said = plan('pretraining', fake / 'out'), []
  first, *others = found
  elsewhere = threading.Event()

  def other():
    with files.lock(runner._lock_of(first)):
      elsewhere.wait()
      task = first.config.sources[0]
      shutil.copytree(fake / 'dataset', fake / 'out' / 'sources' / task)

  def say(text):
    said.append(text)
    if 'waiting' in text:
      elsewhere.set()

  thread = threading.Thread(target=other)
  thread.start()
  while not runner._is_running(first):
    time.sleep(0.01)
  assert describe(found)[first.name] == 'running'
  assert Runner(found, [None], say=say).run() == 0
  thread.join()
  assert sorted(order(fake)) == sorted(p.name for p in others)
  assert f'] {first.name}: done, elsewhere' in ' '.join(said)


def test_a_run_left_behind_is_not_started_again(fake):
  """Of a grid that was killed, which its run outlives."""
  found = plan('pretraining', fake / 'out')
  point = found[0]
  runner = Runner(found, [None], say=lambda text: None)
  with files.lock(point.workdir):
    runner._try(point)
    assert not runner._children and point in runner._left
  with files.lock(fake / 'out' / 'sources' / 'probe_wide'):
    runner._try(point)
    assert not runner._children
  runner._try(point)
  assert runner._children
  while runner._children:
    runner._take_ended()


# The command.


def command(*arguments):
  return grid.main([str(argument) for argument in arguments])


def told(name, out, *more):
  study = FOLDER / f'{name}.py'
  options = '--base', DEBUG, '--out', out, '--seeds', 1, *more
  return command('--study', study, *options)


def test_list_and_index(fake, capsys):
  out = fake / 'out'
  assert told('pretraining', out, '--list') == 0
  said = capsys.readouterr().out
  assert 'datasets, --index 0 to 1:\n   0  todo ' in said
  assert 'runs, --index 4 to 7:\n   4  todo     vid2act-0' in said
  assert said.endswith('8 points: 8 todo\n')
  assert not out.exists()
  assert told('pretraining', out, '--index', 2) == 1
  said = capsys.readouterr().err
  assert 'needs first: --index 0 (collect-probe_wide, todo), --index 1' in said
  for index in (1, 0, 2, 4, 4):
    assert told('pretraining', out, '--index', index) == 0
  assert [name.split('-')[0] for name in order(fake)] == [
    'collect', 'collect', 'teacher', 'vid2act'
  ]  # fmt: skip
  capsys.readouterr()
  assert told('pretraining', out, '--list') == 0
  assert capsys.readouterr().out.endswith('8 points: 4 done, 4 todo\n')
  assert told('pretraining', out) == 0
  assert f'vid2act_jax.analysis report {out} --out {out}/report' in (
    capsys.readouterr().out
  )


@pytest.mark.parametrize(
  'more, message',
  [
    (['--index', 8], '--index=8: there are 0 to 7'),
    (['--index', -1], '--index=-1: there are 0 to 7'),
    (['--seeds', 0], 'at least one'),
    (['--jobs', 0], 'at least one'),
    (['--jobs', 2, '--gpus', 0], 'a GPU to itself'),
    (['--base', 'no.py'], '--base=no.py: there is no such file'),
    (['--study', 'no.py'], '--study=no.py: there is no such file'),
    (['--study', DEBUG], 'no get_study'),
    (['--study', ROOT / 'README.md'], 'not a file of Python'),
    (['--', '--config.no=1'], 'has no key'),
    (['--', '--config.seed=1'], 'cannot stand behind --'),
    (['--', '--config.variant=uniform'], 'cannot stand behind --'),
    (['--', '--config.env.num=many'], 'env.num'),
    (['--', '--config.env.num', '2'], 'write it as --config.KEY=VALUE'),
  ],
)
def test_mistakes_are_told_in_a_line(more, message, tmp_path, capsys):
  assert told('pretraining', tmp_path, *more) == 1
  said = capsys.readouterr().err
  assert message in said and said.startswith('error: ')
  assert said.count('\n') == 1


@pytest.mark.parametrize(
  'text, message',
  [
    ('{}', 'must give'),
    ('[1]', 'must give'),
    ('{"a/b": {}}', 'not fit for a folder'),
    ('{"..": {}}', 'not fit for a folder'),
    ('{"a": {"seed": 3}}', "the grid's"),
    ('{"a": {"varaint": "uniform"}}', 'has no key'),
    ('{"a": {"variant": "single:x"}}', "'x' is not in config.sources"),
    ('{"collect-x": {"sources": ("x-0",)}}', 'has two points'),
    ('{"a": {}, "b": {"env.camera": "1"}}', 'in two ways'),
    ('{"a": {}, "b": {"collect.episodes": 9}}', 'in two ways'),
  ],
)
def test_mistakes_of_a_study(text, message, tmp_path):
  study = tmp_path / 'study.py'
  study.write_text(f'def get_study(config):\n  return {text}\n')
  with pytest.raises(UserError, match=re.escape(message)):
    jobs.make(str(study), DEBUG, 1, [], tmp_path, tmp_path)


def test_what_makes_no_other_dataset_or_teacher_may_differ(tmp_path):
  study = tmp_path / 'study.py'
  study.write_text(
    'def get_study(config):\n'
    '  return {"a": {"env.num": 1, "learner.scales.vae": 0.5},\n'
    '          "b": {"env.num": 2, "learner.scales.vae": 0.5},\n'
    '          "c": {"finetune.batch": 7, "learner.unroll": 3},\n'
    '          "d": {"learner.transfer.guidance": 9},\n'
    '          "e": {"learner.scales.kl": 0.5}}\n'
  )
  found = jobs.make(str(study), DEBUG, 1, [], tmp_path, tmp_path)
  kinds = [p.kind for p in found]
  # The KL's scale is the teacher's as well.
  assert kinds.count('datasets') == 2 and kinds.count('teachers') == 2
  numbers = [p.config.env.num for p in found if p.kind == 'runs']
  assert numbers == [1, 2, 1, 1, 1]


def test_a_teacher_with_another_mark_is_found(tmp_path):
  """As one of an older version, whose config lacks what came later."""
  (teacher,) = [
    p for p in plan('transfer', tmp_path, 1) if p.kind == 'teachers'
  ]
  config = json.loads(teacher.config.to_json_best_effort())
  del config['learner']['unroll'], config['learner']['scales']['discount']
  older = tmp_path / 'teacher-older-0'
  older.mkdir()
  for steps, found in ((config['pretrain']['steps'], older), (7, None)):
    config['pretrain']['steps'] = steps
    (older / runs.CONFIG).write_text(json.dumps(config))
    planned = plan('transfer', tmp_path, 1)
    (folder,) = [p.workdir for p in planned if p.kind == 'teachers']
    assert folder == (found or teacher.workdir)
    users = {p.config.teacher_from for p in planned if p.kind == 'runs'}
    assert users == {'', str(folder)}


# With the real program.


def test_end_to_end(tmp_path):
  """Two variants of one teacher; stopped on the way, and going on."""
  study = tmp_path / 'two.py'
  study.write_text(
    'def get_study(config):\n'
    '  return {v: {"variant": v} for v in ("vid2act", "no_replay")}\n'
  )
  out = tmp_path / 'out'
  arguments = [
    sys.executable, '-m', 'experiments.grid', f'--study={study}',
    f'--base={DEBUG}', f'--out={out}', '--seeds=1', '--',
    "--config.sources=('probe_count',)", '--config.collect.episodes=2',
    '--config.pretrain.steps=4', '--config.pretrain.video_every=0',
    '--config.finetune.video_every=0', '--config.finetune.env_steps=44',
    '--config.evaluate.every=0',
  ]  # fmt: skip
  environment = {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
  }
  start = lambda: subprocess.Popen(
    arguments,
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  process, said = start(), ['']
  while 'started teacher' not in said[-1]:
    said.append(process.stdout.readline())
    assert said[-1], said
  process.send_signal(signal.SIGINT)
  said = process.communicate()[0]
  assert process.returncode == runner.EXIT_STATUS, said
  assert 'saved, the same command goes on' in said
  process = start()
  said = process.communicate()[0]
  assert process.returncode == 0, said
  assert said.startswith('1 of 4 points are done')
  (teacher,) = out.glob('teacher-*')
  assert Checkpoint(teacher / runs.TEACHER).finished()['step'] == 4
  for name in ('vid2act', 'no_replay'):
    config = runs.read_config_dict(out / f'{name}-0')
    assert config['variant'] == name
    assert config['teacher_from'] == str(teacher)
    assert Checkpoint(out / f'{name}-0' / runs.STUDENT).finished()
    told = [r for r in read_metrics(out / f'{name}-0') if 'peak_gb' in r]
    assert told and all(0.1 < r['peak_gb'] < 100 for r in told)
