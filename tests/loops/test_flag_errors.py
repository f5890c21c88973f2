"""Messages for wrong command lines, in this process."""

import pathlib

import pytest

from experiments.grid import configs
from experiments.grid.__main__ import main as grid_main
from vid2act_jax.loops import flag_errors
from vid2act_jax.types import UserError

DEBUG = '--config=experiments/debug.py'


def test_the_last_value_counts():
  """Also of tuples, whose values absl joins, and in both forms of a flag."""
  config = configs.load(
    [
      DEBUG,
      '--config.sources=probe_wide',
      '--config.seed=3',
      '--config.sources',
      "('probe_count', 'probe_noise')",
      '--config.seed=4',
    ]
  )
  assert config.sources == ('probe_count', 'probe_noise')
  assert config.seed == 4
  argv = ['run', DEBUG, '--workdir=a', '--config=b', '--', DEBUG, '--config=c']
  assert flag_errors.last_values(argv) == [
    'run', '--config=b', '--workdir=a', '--', DEBUG, '--config=c',
  ]  # fmt: skip


@pytest.mark.parametrize(
  'argument, message',
  [
    (
      'config.env_step=3',
      r"'env_step'; did you mean config.*finetune.env_step",
    ),
    ('config.finetune.env_step=3', 'did you mean config.finetune.env_steps'),
    ('config.horizon=3', r'did you mean config.learner.behavior.horizon\?'),
    (
      'config.env.size.x=3',
      "'env.size.x'; did you mean config.env.size",
    ),
    ('config.learnr.unroll=3', 'did you mean config.learner.unroll'),
    ('config.zzzzzz=3', '--print_config lists all'),
    ('config..x=3', "no key '.x'"),
    ('config.finetune=3', 'not a dict'),
    ('config.seed=', 'config.seed=: invalid literal'),
    ('config.seed=1.5', 'invalid literal for int'),
    ('config.env.parallel=maybe', 'Non-boolean argument'),
    ('config.finetune.length', 'Missing value for flag'),
  ],
)
def test_wrong_keys_and_values(argument, message):
  with pytest.raises(UserError, match=message) as error:
    configs.load([DEBUG, f'--{argument}'])
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--study=STUDY'], 'line 2: SyntaxError'),
    (['--study=STUDY', '--out='], '--out is empty'),
  ],
)
def test_wrong_flags_of_a_grid(arguments, message, tmp_path, capsys):
  study = tmp_path / 'study.py'
  study.write_text('x = 1\ndef get_study(:\n')
  arguments = [text.replace('STUDY', str(study)) for text in arguments]
  assert grid_main(arguments) == 1
  assert message in capsys.readouterr().err


def test_all_wrong_keys_are_named():
  with pytest.raises(UserError, match='2 problems') as error:
    flags = ['--config.sede=1', '--config.tsak=x', '--config.seed=2']
    configs.load([DEBUG, *flags])
  assert 'did you mean config.seed or' in str(error.value)
  assert 'config.task?' in str(error.value)


FILES = {
  'syntax.py': ('x = 1\ndef get_config(:\n', 'line 2: SyntaxError'),
  'name.py': ('def get_config():\n  return nothing\n', 'line 2: NameError'),
  'value.py': ('def get_config():\n  return int("a")\n', 'line 2: ValueError'),
  'read.py': (
    'open("nowhere")\n',
    r'read.py: .*No such file.*nowhere.*; correct',
  ),
  'import.py': ('import nothing_here\n', 'line 1: ModuleNotFoundError'),
  'none.py': ('def get_config(): pass\n', 'returns None'),
  'empty.py': ('', r'it has no get_config\(\)'),
  'typo.py': (
    'from experiments import debug\ndef get_config():\n'
    '  c = debug.get_config()\n  c.finetune.prefil = 3\n  return c\n',
    'sets config.finetune.prefil.*did you mean config.finetune.prefill',
  ),
  'part.py': (
    'from ml_collections import ConfigDict\n'
    'def get_config(): return ConfigDict({"seed": 1})\n',
    'its config lacks config.collect.*start from',
  ),
}


@pytest.mark.parametrize('overrides', [[], ['--config.seed=1']])
@pytest.mark.parametrize('name', FILES)
def test_wrong_config_files(name, overrides, tmp_path):
  text, message = FILES[name]
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=message) as error:
    configs.load([f'--config={tmp_path / name}', *overrides])
  assert f'{tmp_path / name}' in str(error.value)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--config=experiments/debgu.py'], 'did you mean experiments/debug.py'),
    (['--config=/nowhere/a.py', '--config.seed=1'], 'no such file'),
    (['--config=experiments'], 'a folder; name one of .*debug.py'),
    (['--config='], '--config is empty'),
    ([], '--config is missing'),
  ],
)
def test_missing_config_files(arguments, message):
  assert pathlib.Path('experiments').is_dir()
  with pytest.raises(UserError, match=message):
    configs.load(arguments)
