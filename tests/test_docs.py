"""Runs the code and the commands of docs/your-own-task.md."""

import os
import pathlib
import re
import subprocess
import sys

from vid2act_jax.data import dataset
from vid2act_jax.loops.logger import read_metrics

ROOT = pathlib.Path(__file__).parent.parent
GUIDE = (ROOT / 'docs' / 'your-own-task.md').read_text()
# Shortens the run of the guide.
TINY = {
  'learner.teacher.depth': 2,
  'learner.student.depth': 2,
  'pretrain.steps': 4,
  'pretrain.video_every': 0,
  'pretrain.log_every': 2,
  'finetune.env_steps': 460,
  'finetune.prefill': 200,
  'finetune.first_updates': 4,
  'finetune.update_every': 10,
  'finetune.video_every': 0,
  'finetune.log_every': 4,
  'evaluate.every': 0,
  'evaluate.episodes': 1,
}


def test_the_guide(tmp_path):
  files = re.findall(r'```python (\S+)\n(.*?)```', GUIDE, re.S)
  assert [name for name, _ in files] == ['my_tasks.py', 'pendulum.py']
  for name, text in files:
    (tmp_path / name).write_text(text)
  blocks = re.findall(r'```bash\n(.*?)```', GUIDE, re.S)
  commands = [line for block in blocks for line in block.splitlines()]
  assert len(commands) == 7
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  for command in commands:
    program, *arguments = command.split()
    assert program == 'python'
    if 'experiments.run' in command:
      arguments += [f'--config.{key}={value}' for key, value in TINY.items()]
    done = subprocess.run(
      [sys.executable, *arguments],
      cwd=tmp_path,
      env=environment,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
  metadata = dataset.read_metadata(tmp_path / 'data' / 'imported_pendulum')
  assert metadata['episodes'] == 6
  records = read_metrics(tmp_path / 'runs' / 'pendulum-0', 'finetune')
  assert any('similarity/imported_pendulum' in row for row in records)
  assert any('eval/return' in row for row in records)
