"""The tools for runs read those in a bucket."""

from tests import fake_runs
from vid2act_jax.analysis import __main__
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.mirror import Mirror


def test_report_of_runs_in_a_bucket(gcs, tmp_path, capsys):
  (tmp_path / 'runs').mkdir()
  fake_runs.study(tmp_path / 'runs', seeds=2)
  folders = {p.parent for p in (tmp_path / 'runs').rglob('metrics.jsonl')}
  assert len(folders) >= 2
  for folder in folders:
    name = folder.relative_to(tmp_path).as_posix()
    mirror = Mirror(Bucket(f'gs://bucket/{name}'), folder)
    entries = mirror.upload()
    mirror._generation = 0
    mirror.commit(entries)
  out = str(tmp_path / 'report')
  assert __main__.main(['report', 'gs://bucket/runs', '--out', out]) == 0
  text = (tmp_path / 'report' / 'results.json').read_text()
  assert 'dmc_quadruped_walk' in text
  capsys.readouterr()
  for arguments, message in (
    (['report', 'gs://bucket/none', '--out', out], 'no run in it'),
    (['summary', 'gs://bucket/runs/x'], 'only report, findings and evaluate'),
    (['evaluate', 'gs://missing/x'], 'there is no bucket gs://missing'),
  ):
    assert __main__.main(arguments) == 1
    assert message in capsys.readouterr().err
