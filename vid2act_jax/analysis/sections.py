"""The report's sections on scores, costs and the runs themselves."""

from vid2act_jax.analysis import curves, figures, page, words
from vid2act_jax.analysis.pictures import Pictures, styles


def learning(results: dict, pictures: Pictures) -> list[str]:
  """Scores: over all tasks where they can be averaged, then each task."""
  style, overall = styles(results), results['overall']
  parts = [page.heading('Learning', 2, 'learning')]
  if overall:
    parts += _overall(overall, style, pictures)
  elif len(results['tasks']) > 1:
    parts.append(
      page.paragraph(
        'No mean over tasks: no kind of run has two tasks of known scale'
        ' (DeepMind Control: return over the length of an episode; Meta-World:'
        ' success).'
      )
    )
  for task, told in results['tasks'].items():
    parts += _task(task, told, results['published'][task], style, pictures)
  parts.append(
    page.paragraph(
      'Lines are interquartile means over seeds (of up to three, plain means),'
      ' bands their 95% bootstrap intervals, thin lines single seeds. A final'
      f' score is the mean of the last {curves.LAST} evaluations up to the last'
      ' step that all compared runs reached; the area is the mean height of the'
      ' curve until there, higher for those who learn sooner. Chance is the'
      ' share of permutations of the runs that part them as much: only where it'
      ' is at most 0.05 and the interval excludes one half is a difference'
      ' called one. It is not corrected for the number of comparisons.',
      'faint',
    )
  )
  return parts


def _overall(overall, style, pictures):
  tasks = ', '.join(overall['tasks'])
  parts = [
    page.heading(f'Over {len(overall["tasks"])} tasks'),
    page.paragraph(f'{tasks}.'),
    pictures.add(
      'overall-curves',
      figures.normalised(overall, style),
      f'Mean normalised score over {tasks} against environment steps,'
      f' for {", ".join(overall["labels"])}; the figures are in the table.',
      _crowded(overall),
    ),
    _intervals('overall-scores', overall, style, 'normalised score', pictures),
    _scores(overall),
  ]
  if overall['left_out']:
    parts.append(
      page.paragraph(
        'Without runs on all of these tasks, and so left out of this mean:'
        f' {", ".join(overall["left_out"])}.'
      )
    )
  return parts


def _task(task, told, published, style, pictures):
  methods = [f'{x["method"]} ({x["source"]})' for x in published]
  other = f'Published: {"; ".join(methods)}.' if methods else ''
  alt = f'{told["metric"]} on {task} for {", ".join(told["labels"])}'
  parts = [
    page.heading(task),
    page.paragraph(words.comparisons(told)),
    pictures.add(
      f'learning-{task}',
      figures.learning(told, task, style, published),
      f'{alt}; the figures are in the table below.',
      ' '.join(filter(None, [_crowded(told), other])),
    ),
    _intervals(f'scores-{task}', told, style, told['metric'], pictures),
    _scores(told),
  ]
  if published:
    parts.append(_published(published))
  return parts


def _crowded(told):
  if len(told['labels']) <= figures.CROWD:
    return ''
  return (
    'Of so many kinds only the first two have their bands here; all are below'
    ' and in results.json.'
  )


def _intervals(name, told, style, unit, pictures):
  if len(told['labels']) < 2:
    return ''
  return pictures.add(
    name,
    figures.intervals(told['labels'], style, unit, told['baseline']),
    'Final scores with intervals, and the probability to be better than'
    f' {told["baseline"] or "a baseline"}; the same as in the table.',
    'Hollow: undecided. Small lines: single seeds.',
  )


def _scores(told):
  rows = []
  for label, about in told['labels'].items():
    seeds = about['seeds']
    better = about['improvement'] or {}
    chance, probability = better.get('chance'), better.get('probability')
    if better.get('interval'):
      low, high = better['interval']
      probability = f'{probability:.2f} [{low:.2f}, {high:.2f}]'
    elif probability is not None:
      probability = f'{probability:.2f} (no interval)'
    rows.append(
      [
        label,
        _seeds(seeds),
        words.summary(about['final']),
        words.summary(about['area']),
        words.number(about.get('random')),
        probability or ('the baseline' if label == told['baseline'] else '–'),
        words.number(chance),
        better.get('verdict', '–'),
      ]
    )
  head = (
    'kind,seeds,final score,area,random,better than baseline,chance,verdict'
  )
  return page.table(head.split(','), rows)


def _seeds(seeds):
  if any(seed is None for seed in seeds):
    return f'{len(seeds)} (unknown)'
  many = ', '.join(map(str, seeds))
  return f'{len(seeds)} (one: no interval)' if len(seeds) == 1 else many


def _published(published):
  return page.table(
    ['published', 'source', 'seeds', 'last step', 'mean', 'std', 'protocol'],
    [
      [
        x['method'],
        x['source'],
        x['seeds'],
        x['env_steps'][-1],
        x['mean'][-1],
        x['std'][-1],
        x['protocol'],
      ]
      for x in published
    ],
  )


def costs(results: dict) -> list[str]:
  """What the runs took, by label."""
  head = ['task', 'kind', 'runs', 'sources', 'collect, s', 'pretrain, s']
  head += ['finetune, s', 'env steps/s', 'updates', 's an update', 'peak, GB']
  head += ['on the device, GB']
  head += ['machine', 'commit']
  rows, shared = [], False
  for task, labels in results['costs'].items():
    for label, told in labels.items():
      shared |= told['shared']
      rows.append(
        [
          task,
          label,
          told['runs'],
          told['sources'],
          *told['seconds'].values(),
          told['env_steps_per_s'],
          told['updates'],
          told['seconds_per_update'],
          told['peak_gb'],
          told['device_peak_gb'],
          told['machine'],
          told['commit'],
        ]
      )
  text = (
    'Means over the seeds, until the last line that a stage told. Seconds an'
    ' update are of finetuning, with what acting and evaluating take.'
  )
  if shared:
    text += (
      ' A teacher that several runs share is counted in full for each of them.'
    )
  return [
    page.heading('Costs', 2, 'costs'),
    page.table(head, rows),
    page.paragraph(text, 'faint'),
  ]


def findings(results: dict) -> list[str]:
  """What went wrong within runs."""
  parts = [page.heading('Findings', 2, 'findings')]
  if not results['findings']:
    return [
      *parts,
      page.paragraph('The checks found nothing wrong in any run.'),
    ]
  rows = [[x['name'], x['text'], x['run']] for x in results['findings']]
  return [*parts, page.table(['what', 'in words', 'run'], rows)]


def about(results: dict) -> list[str]:
  """The runs themselves, and what is odd about them."""
  rows = [
    [
      x['run'],
      x['task'] or '–',
      x['variant'] or '–',
      x['seed'],
      x['env_steps'],
      x['evaluations'],
      x['episodes'],
      x['commit'],
    ]
    for x in results['runs']
  ]
  head = ['run', 'task', 'variant', 'seed', 'env steps', 'evaluations']
  head += ['episodes each', 'commit']
  parts = [page.heading('About the runs', 2, 'runs')]
  if results['problems']:
    parts.append(page.bullets(results['problems']))
  else:
    parts.append(page.paragraph('Nothing is missing or odd.'))
  return [*parts, page.table(head, rows)]
