"""Studies: their jobs, and the grid that runs them."""

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
from experiments.grid import configs, runner
from experiments.grid.jobs import KINDS, Sweep, make_jobs
from experiments.grid.runner import Runner, job_states
from experiments.studies import shift, sources
from vid2act_jax import envs
from vid2act_jax.data import dataset, files
from vid2act_jax.loops import runs, seeds
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
# Replaces experiments.run: fast, and controlled by files next to it.
FAKE = """
import pathlib, shutil, signal, sys, time
folder = pathlib.Path(__file__).parent
kind, = {name for a in sys.argv for name in ('collect', 'pretrain', 'finetune')
         if a == f"--config.stages=('{name}',)"}
value = lambda key: [a.split('=', 1)[1] for a in sys.argv
                     if a.startswith(key + '=')][-1]
workdir = pathlib.Path(value('--workdir'))
workdir.mkdir(parents=True, exist_ok=True)
with open(folder / 'order', 'a') as file:
  file.write(workdir.name + '\\n')
print('the last line', flush=True)
if (folder / f'fail {workdir.name}').exists():
  sys.exit(3)
if (folder / f'wait {workdir.name}').exists():
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  (folder / 'waits').touch()
  time.sleep(60)
if kind == 'collect':
  task = eval(value('--config.sources'))[0]
  shutil.copytree(folder / 'dataset',
                  pathlib.Path(value('--config.source_dir')) / task)
else:
  stage = workdir / {'pretrain': 'teacher', 'finetune': 'student'}[kind]
  stage.mkdir()
  (stage / 'DONE.json').write_text('{"step": 6, "env_steps": 100}')
"""


def make(name, out, seeds=1, overrides=(), base=DEBUG):
  study = FOLDER / f'{name}.py'
  return make_jobs(str(study), base, seeds, list(overrides), out, out)


def test_seeds_that_share_a_job(tmp_path):
  study = str(FOLDER / 'transfer.py')
  apart = make('transfer', tmp_path, 2)
  jobs = make_jobs(study, DEBUG, 2, [], tmp_path, tmp_path, (), True)
  others = [j.name for j in jobs if j.kind != 'runs']
  assert others == [j.name for j in apart if j.kind != 'runs']
  (job,) = [j for j in jobs if j.name == 'vid2act']
  assert job.config.seeds == (0, 1)
  for seed in (0, 1):
    (alone,) = [j for j in apart if j.name == f'vid2act-{seed}']
    assert set(alone.deps) <= set(job.deps)
    one = seeds.config_of(job.config, seed)
    assert one.to_dict() == alone.config.to_dict()
    assert not job.is_done()
    student = job.workdir / f'seed_{seed}' / 'student'
    student.mkdir(parents=True)
    (student / 'DONE.json').write_text('{"step": 6, "env_steps": 100}')
  assert job.is_done()
  # One teacher for all seeds keeps its name.
  sweep = Sweep(DEBUG, [], tmp_path, tmp_path, 1)
  for seed in range(2):
    sweep.add('vid2act', {}, seed)
  sweep.add('of_one_seed', {}, 1)
  sweep.join_seeds()
  job, alone = [j for j in sweep.jobs() if j.kind == 'runs']
  assert job.config.teacher_from.endswith('-0')
  assert alone.name == 'of_one_seed-1' and not alone.config.seeds
  # Three seeds that share two teachers have no common name for them.
  sweep = Sweep(DEBUG, [], tmp_path, tmp_path, 2)
  for seed in range(3):
    sweep.add('vid2act', {}, seed)
  with pytest.raises(UserError, match='--together: vid2act is not the same'):
    sweep.join_seeds()


# Jobs of the studies.


@pytest.mark.parametrize('name', STUDIES)
def test_studies_make_valid_jobs(name, tmp_path):
  """With the debug experiment: valid configs and consistent dependencies."""
  jobs = make(name, tmp_path, 2)
  names = [j.name for j in jobs]
  assert len(set(names)) == len(names) == len({j.workdir for j in jobs})
  assert [j.kind for j in jobs] == sorted(
    (j.kind for j in jobs), key=KINDS.index
  )
  for index, job in enumerate(jobs):
    assert set(job.deps) <= set(names[:index])
    config = job.config
    variant = runs.variant_of(config)
    if job.kind != 'runs' or not variant.pretrained:
      assert job.kind == 'datasets' or variant.pretrained or not job.deps
      continue
    # Its teacher has the same sources, seed and kind.
    (teacher,) = [
      j for j in jobs if j.kind == 'teachers' and j.name in job.deps
    ]
    assert config.teacher_from == str(teacher.workdir)
    assert teacher.config.sources == config.sources
    assert teacher.config.seed == (0 if name == 'bench' else config.seed)
    assert (
      runs.variant_of(teacher.config).pretrain_actions
      == variant.pretrain_actions
    )
    assert len(job.deps) == 1 + len(config.sources)
    assert config.source_dir == str(tmp_path / 'sources')
  seeds = {j.config.seed for j in jobs if j.kind == 'runs'}
  assert seeds == {0, 1}


def test_datasets_and_teachers_are_shared(tmp_path):
  jobs = make('ablation', tmp_path, 2)
  kinds = [j.kind for j in jobs]
  # Teachers with and without actions, for two seeds; datasets for one.
  assert kinds.count('datasets') == 2 and kinds.count('teachers') == 4
  assert kinds.count('runs') == 2 * (8 + 2)
  teachers = [j.name for j in jobs if j.kind == 'teachers']
  # Another study with the same pretraining uses the same teachers.
  other = make('pretraining', tmp_path, 2, ['--config.finetune.log_every=3'])
  assert [j.name for j in other if j.kind == 'teachers'] == teachers
  other = make('pretraining', tmp_path, 2, ['--config.pretrain.steps=7'])
  assert not {j.name for j in other} & set(teachers)


def test_study_overrides_command_line(tmp_path):
  overrides = ["--config.sources=('probe_wide','probe_count','probe_noise')"]
  jobs = make('sources', tmp_path, 1, overrides)
  lists = [j.config.sources for j in jobs if j.kind == 'runs'][1:]
  assert [len(tasks) for tasks in lists] == [1, 2]
  assert [len(j.config.sources) for j in jobs if j.kind == 'datasets'] == [
    1, 1
  ]  # fmt: skip
  for job in jobs:
    matches = [a for a in job.arguments if a.startswith('--config.sources=')]
    assert len(matches) == 1


def test_given_teacher_and_datasets_are_used(tmp_path):
  overrides = '--config.teacher_from=mine.npz', '--config.source_dir=/data'
  jobs = make('pretraining', tmp_path, 1, overrides)
  assert [j.kind for j in jobs].count('teachers') == 0
  run = jobs[-4]
  assert run.config.teacher_from == 'mine.npz'
  assert run.config.source_dir == '/data'


def test_sources_are_nested():
  config = configs.load([f'--config={FOLDER}/small.py'])
  jobs = sources.get_study(config)
  lists = [j['sources'] for j in jobs.values() if 'sources' in j]
  assert [len(tasks) for tasks in lists] == [1, 2, 4, 8]
  for fewer, more in zip(lists, lists[1:], strict=False):
    assert more[: len(fewer)] == fewer
  assert set(config.sources) <= set(lists[-1])
  assert len({t.split('@')[0] for t in lists[-1]} | {config.task}) == 9
  assert jobs == sources.get_study(config)
  batches = {j['pretrain.batch'] for j in jobs.values() if 'sources' in j}
  assert batches == {8} and config.pretrain.batch == 5


@pytest.mark.parametrize('suite', sources.POOL)
def test_pool_tasks_exist(suite):
  assert len(sources.POOL[suite]) > sources.NUM_SOURCES[-1]
  for task in sources.POOL[suite]:
    envs.check(task)


def test_shift_uses_existing_cameras():
  config = configs.load([f'--config={FOLDER}/small.py'])
  jobs = shift.get_study(config)
  # The task has two cameras, one of which is its default.
  name = 'dmc_cartpole_swingup@camera=0'
  assert jobs['camera_0']['sources'] == (name,)
  assert 'camera_1' not in jobs and 'camera_2' not in jobs
  assert jobs['camera_all']['sources'] == (config.task, name)
  assert len(jobs['mass_all']['sources']) == 5


def test_docs_have_job_ranges(tmp_path):
  """The array example of docs/studies.md."""
  jobs = make('ablation', tmp_path, 3, base=str(FOLDER / 'small.py'))
  kinds = [j.kind for j in jobs]
  ranges = [
    f'{kinds.index(kind)}-{kinds.index(kind) + kinds.count(kind) - 1}'
    for kind in KINDS
  ]
  text = (ROOT / 'docs' / 'studies.md').read_text()
  assert re.findall(r'--array=([\d-]+)', text) == ranges
  for name in STUDIES:
    assert f'| `{name}.py` |' in text


# The runner.


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """Replaces the program of all jobs; returns its folder."""
  env = envs.make('probe_wide', envs.Settings(), 0)
  folder = tmp_path / 'dataset'
  (tmp_path / 'fake.py').write_text(FAKE)
  files.make_folder(folder)
  provenance = {'method': 'collect', 'policy': 'random', 'seed': 0}
  dataset.write_metadata(
    folder, 'probe_wide', provenance, env.description, True
  )
  program = sys.executable, str(tmp_path / 'fake.py')
  monkeypatch.setattr(runner, 'PROGRAM', program)
  monkeypatch.setattr(runner, '_LOCK_POLL_SECONDS', 0.1)
  return tmp_path


def order(fake):
  return (fake / 'order').read_text().split()


def test_runs_all_jobs_once(fake):
  jobs, lines = make('pretraining', fake / 'out'), []
  assert set(job_states(jobs).values()) == {'todo'}
  assert Runner(jobs, [None] * 3, log_fn=lines.append).run() == 0
  started = order(fake)
  assert sorted(started) == sorted(j.name for j in jobs)
  for job in jobs:
    for name in job.deps:
      assert started.index(name) < started.index(job.name)
  assert lines[0] == '0 of 8 jobs are done'
  assert sum('] ' in line for line in lines) == 8
  assert set(job_states(jobs).values()) == {'done'}
  assert Runner(jobs, [None]).run() == 0
  assert order(fake) == started
  # Unneeded data may be removed; a run of another config is not done.
  shutil.rmtree(fake / 'out' / 'sources')
  states = job_states(jobs)
  assert [states[j.name] for j in jobs[:2]] == ['unneeded'] * 2
  assert Runner(jobs, [None]).run() == 0 and order(fake) == started
  other = make('pretraining', fake / 'out', 1, ['--config.env.time_limit=9'])
  runs.init_workdir(jobs[-1].workdir, other[-1].config)
  assert job_states(jobs)[jobs[-1].name] == 'partial'


def test_each_job_has_its_gpu(fake, monkeypatch):
  program = fake / 'fake.py'
  program.write_text(
    'import os; print("GPU", os.environ["CUDA_VISIBLE_DEVICES"])\n'
    + program.read_text()
  )
  jobs = make('pretraining', fake / 'out')
  assert Runner(jobs, ['4', '7']).run() == 0
  gpus = {re.search('GPU (.)', runner.log_path(j).read_text())[1] for j in jobs}
  assert gpus == {'4', '7'}


def test_failed_job(fake):
  jobs, lines = make('pretraining', fake / 'out'), []
  (fake / 'fail collect-probe_count').touch()
  assert Runner(jobs, [None], log_fn=lines.append).run() == 1
  assert order(fake) == ['collect-probe_wide', 'collect-probe_count']
  assert '  | the last line' in lines[-1]
  assert job_states(jobs)['collect-probe_count'] == 'failed'
  # With keep_going, independent jobs continue.
  assert Runner(jobs, [None], True, lines.append).run() == 1
  assert order(fake)[2:] == ['collect-probe_count', 'dreamerv2-0']
  assert lines[-3] == 'skipped 5 jobs that depend on collect-probe_count'
  (fake / 'fail collect-probe_count').unlink()
  assert Runner(jobs, [None]).run() == 0
  assert set(job_states(jobs).values()) == {'done'}


def test_stops_and_resumes(fake):
  jobs, lines = make('pretraining', fake / 'out'), []
  waits = [j for j in jobs if j.kind == 'teachers'][0].name
  (fake / f'wait {waits}').touch()

  def stop():
    while not (fake / 'waits').exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=stop)
  thread.start()
  assert Runner(jobs, [None], log_fn=lines.append).run() == runner.EXIT_STATUS
  thread.join()
  assert lines[-1] == f'{waits}: saved; the same command resumes'
  assert job_states(jobs)[waits] == 'partial' and order(fake)[-1] == waits
  (fake / f'wait {waits}').unlink()
  assert Runner(jobs, [None]).run() == 0
  assert order(fake).count(waits) == 2


def test_two_runners_split_the_jobs(fake):
  jobs, lines = make('pretraining', fake / 'out'), []
  first, *others = jobs
  released = threading.Event()

  def other_runner():
    with files.lock(runner._lock_path(first)):
      released.wait()
      task = first.config.sources[0]
      shutil.copytree(fake / 'dataset', fake / 'out' / 'sources' / task)

  def log_fn(text):
    lines.append(text)
    if 'waiting' in text:
      released.set()

  thread = threading.Thread(target=other_runner)
  thread.start()
  while not runner._is_running(first):
    time.sleep(0.01)
  assert job_states(jobs)[first.name] == 'running'
  assert Runner(jobs, [None], log_fn=log_fn).run() == 0
  thread.join()
  assert sorted(order(fake)) == sorted(j.name for j in others)
  assert f'] {first.name}: done by another process' in ' '.join(lines)


def test_orphaned_run_is_not_started_again(fake):
  """The process of a job outlives a killed runner."""
  jobs = make('pretraining', fake / 'out')
  job = jobs[0]
  job_runner = Runner(jobs, [None], log_fn=lambda text: None)
  with files.lock(job.workdir):
    job_runner._try_start(job)
    assert not job_runner._processes and job in job_runner._pending
  with files.lock(fake / 'out' / 'sources' / 'probe_wide'):
    job_runner._try_start(job)
    assert not job_runner._processes
  job_runner._try_start(job)
  assert job_runner._processes
  while job_runner._processes:
    job_runner._reap()


# The command line.


def command(*arguments):
  return grid.main([str(argument) for argument in arguments])


def run_study(name, out, *more):
  study = FOLDER / f'{name}.py'
  options = '--base', DEBUG, '--out', out, '--seeds', 1, *more
  return command('--study', study, *options)


def test_list_and_index(fake, capsys):
  out = fake / 'out'
  assert run_study('pretraining', out, '--list') == 0
  stdout = capsys.readouterr().out
  assert 'datasets, --index 0 to 1:\n   0  todo ' in stdout
  assert 'runs, --index 4 to 7:\n   4  todo      vid2act-0' in stdout
  assert stdout.endswith('8 jobs: 8 todo\n')
  assert not out.exists()
  assert run_study('pretraining', out, '--index', 2) == 1
  stderr = capsys.readouterr().err
  assert 'run first for teacher-' in stderr
  assert ': --index 0 (collect-probe_wide, todo), --index 1' in stderr
  for index in (1, 0, 2, 4, 4):
    assert run_study('pretraining', out, '--index', index) == 0
  assert [name.split('-')[0] for name in order(fake)] == [
    'collect', 'collect', 'teacher', 'vid2act'
  ]  # fmt: skip
  capsys.readouterr()
  assert run_study('pretraining', out, '--list') == 0
  assert capsys.readouterr().out.endswith('8 jobs: 4 done, 4 todo\n')
  assert run_study('pretraining', out) == 0
  assert f'vid2act_jax.analysis report {out} --out {out}/report' in (
    capsys.readouterr().out
  )


@pytest.mark.parametrize(
  'more, message',
  [
    (['--index', 8], '--index=8: must be 0 to 7'),
    (['--index', -1], '--index=-1: must be 0 to 7'),
    (['--seeds', 0], 'must be at least 1'),
    (['--jobs', 0], 'must be at least 1'),
    (['--jobs', 2, '--gpus', 0], 'each job needs its own GPU'),
    (['--base', 'no.py'], '--base=no.py: no such file'),
    (['--study', 'no.py'], '--study=no.py: no such file'),
    (['--study', DEBUG], 'no get_study'),
    (['--study', ROOT / 'README.md'], 'not a Python file'),
    (['--', '--config.no=1'], 'has no key'),
    (['--', '--config.seed=1'], 'is not allowed after --'),
    (['--', '--config.variant=uniform'], 'is not allowed after --'),
    (['--', '--config.env.num=many'], 'env.num'),
    (['--', '--config.env.num', '2'], 'write it as --config.KEY=VALUE'),
  ],
)
def test_errors_are_one_line(more, message, tmp_path, capsys):
  assert run_study('pretraining', tmp_path, *more) == 1
  stderr = capsys.readouterr().err
  assert message in stderr and stderr.startswith('error: ')
  assert stderr.count('\n') == 1


@pytest.mark.parametrize(
  'text, message',
  [
    ('{}', 'must return'),
    ('[1]', 'must return'),
    ('{"a/b": {}}', 'not valid as a folder name'),
    ('{"..": {}}', 'not valid as a folder name'),
    ('{"a": {"seed": 3}}', 'sets config.seed of a: only the grid'),
    ('{"a": {"varaint": "uniform"}}', 'has no key'),
    ('{"a": {"variant": "single:x"}}', "'x' is not in config.sources"),
    ('{"collect-x": {"sources": ("x-0",)}}', 'has two jobs'),
    ('{"a": {}, "b": {"env.camera": "1"}}', 'has two versions'),
    ('{"a": {}, "b": {"collect.episodes": 9}}', 'has two versions'),
  ],
)
def test_study_errors(text, message, tmp_path):
  study = tmp_path / 'study.py'
  study.write_text(f'def get_study(config):\n  return {text}\n')
  with pytest.raises(UserError, match=re.escape(message)):
    make_jobs(str(study), DEBUG, 1, [], tmp_path, tmp_path)


def test_changes_that_keep_dataset_and_teacher(tmp_path):
  study = tmp_path / 'study.py'
  study.write_text(
    'def get_study(config):\n'
    '  return {"a": {"env.num": 1, "learner.scales.vae": 0.5},\n'
    '          "b": {"env.num": 2, "learner.scales.vae": 0.5},\n'
    '          "c": {"finetune.batch": 7, "learner.unroll": 3},\n'
    '          "d": {"learner.transfer.distance": "sum"},\n'
    '          "e": {"learner.scales.kl": 0.5},\n'
    '          "f": {"learner.transfer.guidance_size": 9}}\n'
  )
  jobs = make_jobs(str(study), DEBUG, 1, [], tmp_path, tmp_path)
  kinds = [j.kind for j in jobs]
  # The KL scale also affects the teacher, the sizes of the VAE its generator.
  assert kinds.count('datasets') == 2 and kinds.count('teachers') == 3
  numbers = [j.config.env.num for j in jobs if j.kind == 'runs']
  assert numbers == [1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize('actions', [True, False])
def test_fields_of_the_base_do_not_change_datasets_and_teachers(
  actions, tmp_path
):
  fields = {
    'teachers': 'separate',
    'weights': 'single:probe_wide',
    'pretrain_actions': actions,
  }
  overrides = [f'--config.learner.transfer.{k}={v}' for k, v in fields.items()]
  study = tmp_path / 'study.py'
  study.write_text('def get_study(config):\n  return {"a": {}}\n')
  jobs = make_jobs(str(study), DEBUG, 1, overrides, tmp_path, tmp_path)
  *others, run = jobs
  teachers = [job for job in others if job.kind == 'teachers']
  assert [job.config.sources for job in teachers] == [
    ('probe_wide',), ('probe_count',)
  ]  # fmt: skip
  folders = ','.join(str(job.workdir) for job in teachers)
  assert run.config.teacher_from == folders
  for job in others:
    variant = runs.variant_of(job.config)
    assert variant.teachers != 'separate' and variant.uses_sources
    assert job.kind == 'datasets' or variant.pretrain_actions == actions


def test_teacher_with_another_digest_is_found(tmp_path):
  """For example of an older version, whose config lacks newer keys."""
  (teacher,) = [
    j for j in make('transfer', tmp_path, 1) if j.kind == 'teachers'
  ]
  config = json.loads(teacher.config.to_json_best_effort())
  del config['learner']['unroll'], config['learner']['scales']['discount']
  older = tmp_path / 'teacher-older-0'
  older.mkdir()
  for steps, expected in ((config['pretrain']['steps'], older), (7, None)):
    config['pretrain']['steps'] = steps
    (older / runs.CONFIG).write_text(json.dumps(config))
    jobs = make('transfer', tmp_path, 1)
    (folder,) = [j.workdir for j in jobs if j.kind == 'teachers']
    assert folder == (expected or teacher.workdir)
    teachers = {j.config.teacher_from for j in jobs if j.kind == 'runs'}
    assert teachers == {'', str(folder)}


def test_runs_that_differ_otherwise_share_a_teacher(tmp_path):
  def teacher(*overrides):
    study = FOLDER / 'transfer.py'
    jobs = make_jobs(str(study), DEBUG, 1, list(overrides), tmp_path, tmp_path)
    (job,) = [j for j in jobs if j.kind == 'teachers']
    return job

  job = teacher()
  assert teacher('--config.finetune.batch=2').workdir == job.workdir
  assert teacher('--config.pretrain.batch=2').workdir != job.workdir
  # A finished one is used as it is.
  job.workdir.mkdir()
  config = json.dumps(job.config.to_dict())
  (job.workdir / runs.CONFIG).write_text(config)
  Checkpoint(job.workdir / runs.TEACHER).finish(job.config.pretrain.steps)
  assert teacher('--config.finetune.batch=2').is_done()


def test_only_runs_with_a_matching_name(tmp_path):
  study = FOLDER / 'transfer.py'
  args = str(study), DEBUG, 2, [], tmp_path, tmp_path
  jobs = make_jobs(*args, only=('dreamer*', 'no_*'))
  names = [j.name for j in jobs if j.kind == 'runs']
  assert names == [
    f'{name}-{seed}'
    for seed in (0, 1)
    for name in ('dreamerv2', 'no_distill', 'no_replay')
  ]
  assert not any(j.kind == 'teachers' for j in make_jobs(*args, only=('dr*',)))
  with pytest.raises(UserError, match='--only=x matches no run.*vid2act'):
    make_jobs(*args, only=('x',))


# The real program.


@pytest.mark.slow
def test_end_to_end(tmp_path):
  """Two variants with one teacher; stopped and resumed."""
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
  process, lines = start(), ['']
  while 'started teacher' not in lines[-1]:
    lines.append(process.stdout.readline())
    assert lines[-1], lines
  process.send_signal(signal.SIGINT)
  stdout = process.communicate()[0]
  assert process.returncode == runner.EXIT_STATUS, stdout
  assert 'saved; the same command resumes' in stdout
  process = start()
  stdout = process.communicate()[0]
  assert process.returncode == 0, stdout
  assert stdout.startswith('1 of 4 jobs are done')
  (teacher,) = out.glob('teacher-*')
  assert Checkpoint(teacher / runs.TEACHER).finished()['step'] == 4
  for name in ('vid2act', 'no_replay'):
    config = runs.read_config_dict(out / f'{name}-0')
    assert config['variant'] == name
    assert config['teacher_from'] == str(teacher)
    assert Checkpoint(out / f'{name}-0' / runs.STUDENT).finished()
    rows = [r for r in read_metrics(out / f'{name}-0') if 'peak_gb' in r]
    assert rows and all(0.1 < r['peak_gb'] < 100 for r in rows)
