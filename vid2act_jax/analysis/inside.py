"""The report's sections on what is inside: weights, models, action replay."""

from vid2act_jax.analysis import figures_inside as figures
from vid2act_jax.analysis import page, similarity, words
from vid2act_jax.analysis.pictures import Pictures, styles

_MOST_HISTOGRAMS = 2  # Kinds of runs that have theirs drawn, for each task.


def weights(results: dict, pictures: Pictures) -> list[str]:
  """Similarity: weights, entropy, and what is known to be relevant."""
  parts = [page.heading('Similarity to the sources', 2, 'similarity')]
  if not results['similarity']:
    return [*parts, page.paragraph('No run has similarity weights.')]
  style = styles(results)
  for task, labels in results['similarity'].items():
    parts += [
      pictures.add(
        f'similarity-{task}',
        figures.weights(labels, f'Similarity weights, {task}'),
        f'Weight of each source over the training on {task}, a panel for each'
        ' kind of run; the last ones are in the table.',
        'Means over the seeds, and thin the single ones; dotted 1/N.'
        + _drawn(labels),
      ),
      pictures.add(
        f'entropy-{task}',
        figures.entropies(labels, f'Entropy of the weights, {task}', style),
        f'Entropy of the similarity weights over ln N on {task}, a line for'
        ' each run.',
        _entropy_caption(labels),
      ),
      _last_weights(labels),
    ]
  parts += _relation(results)
  parts += _pull(results)
  parts.append(page.heading('Where the truth is known'))
  rows = [
    [task, f'{label}, seed {one["seed"]}', *row.values()]
    for task, labels in results['similarity'].items()
    for label, about in labels.items()
    for one in about['runs']
    for row in one['relevance']
  ]
  if rows:
    head = ['task', 'run', 'sources hold', 'expected', 'seen', 'verdict']
    told = words.relevance(results)
    return [*parts, page.paragraph(told.capitalize()), page.table(head, rows)]
  return [
    *parts,
    page.paragraph(
      "No run's sources hold the target's own task, the same data twice"
      f' (@copy=) or pure noise ({similarity.NOISE}), with weights that were'
      ' learned: there is nothing to hold them against.'
    ),
  ]


def _relation(results):
  """What the weights rest on, of the runs that were diagnosed."""
  head = ['task', 'kind', 'seed', 'source', 'weight', 'distance', 'explained']
  rows = [
    [task, label, one['seed'], source, *told.values()]
    for task, labels in results['relation'].items()
    for label, runs in labels.items()
    for one in runs
    for source, told in one['sources'].items()
  ]
  parts = [page.heading('What the weights rest on')]
  if rows:
    text = (
      "The weights are trained to favour the source whose view of the target's"
      " frames is nearest to the student's (distance, after the shared map)."
      " Explained is how much of the student's features a linear map of that"
      ' view foretells, on sequences it was not fitted to: what the source'
      ' knows, whether it is near or not. Where distances hardly differ and'
      ' weights do, the weights say little.'
    )
    parts += [page.paragraph(text), page.table(head, rows)]
  return [*parts, *_missing(results, 'relation')]


def _pull(results):
  """How much the student heeds what it is drawn to."""
  keys = 'distillation', 'others', 'share'
  rows = [
    [task, label, one['seed'], *(one[key] for key in keys)]
    for task, labels in results['pull'].items()
    for label, runs in labels.items()
    for one in runs
  ]
  parts = [page.heading('How hard distillation pulls')]
  if rows:
    text = (
      "Norms of the gradient of the student's world model: of distillation"
      ' alone, of all its other losses together, and the one against the other.'
    )
    head = ['task', 'kind', 'seed', *keys[:2], 'distillation / others']
    parts += [page.paragraph(text), page.table(head, rows)]
  return [*parts, *_missing(results, 'pull')]


def _drawn(labels):
  """What of many labels the panels show, in words."""
  most = figures.MOST_PANELS
  if len(labels) <= most:
    return ''
  return f' The first {most} of {len(labels)} kinds; all are in results.json.'


def _entropy_caption(labels):
  if any(x['entropy_of_means'] for a in labels.values() for x in a['runs']):
    return (
      'Some runs did not tell their entropy: theirs is the entropy of the'
      ' mean weights, which is never lower than the mean entropy.'
    )
  return 'At 1 all sources weigh the same in every state.'


def _last_weights(labels):
  """Means over the seeds; those of single ones are in results.json."""
  sources = list(dict.fromkeys(s for a in labels.values() for s in a['mean']))
  return page.table(
    ['kind', 'runs', *sources, 'entropy / ln N', ''],
    [
      [
        label,
        len(about['runs']),
        *(_mean(one['end'].get(x) for one in about['runs']) for x in sources),
        _mean(
          one['entropy'][-1] / one['most']
          for one in about['runs']
          if one['entropy']
        ),
        'set by the variant' if about['runs'][0]['given'] else '',
      ]
      for label, about in labels.items()
    ],
  )


def _mean(values):
  there = [value for value in values if value is not None]
  return sum(there) / len(there) if there else None


def models(results: dict, pictures: Pictures) -> list[str]:
  """Predictions, the action VAE, and the use of guidance."""
  parts = [page.heading('Inside the models', 2, 'models')]
  parts += _errors(results, pictures)
  parts.append(page.heading('Prediction error by horizon'))
  for task, labels in results['predictions'].items():
    made = figures.predictions(labels, f'Open-loop prediction, {task}')
    parts.append(
      pictures.add(
        f'prediction-{task}',
        made,
        f'Mean squared error of each predicted frame on {task}, of the student,'
        ' the teachers and the last frame repeated.',
        'From actions alone, after the context; pixels in 0 to 1. Means over'
        ' seeds. A model above the last frame predicts worse than no model.'
        + _drawn(labels),
      )
    )
    parts.append(_prediction_table(labels))
  parts += _missing(results, 'prediction')
  parts.append(page.heading('Action replay'))
  rows = []
  for task, labels in results['vae'].items():
    for index, (label, runs) in enumerate(labels.items()):
      if index < _MOST_HISTOGRAMS:
        parts += _histograms(task, label, runs[0], pictures)
      for source in dict.fromkeys(x for one in runs for x in one['sources']):
        told = [one['sources'].get(source, {}) for one in runs]
        keys = 'unexplained', 'kl', 'active', 'latent'
        means = (_mean(x.get(key) for x in told) for key in keys)
        rows.append([task, label, len(runs), source, *means])
  if rows:
    head = ['task', 'kind', 'runs', 'source', 'error / variance']
    head += ['KL, nats a dimension', 'active', 'latent']
    parts.append(page.table(head, rows))
  parts += _missing(results, 'vae')
  parts.append(page.heading('Use of guidance'))
  rows = [
    [task, label, one['seed'], one['share'], one['dead']]
    for task, labels in results['guidance'].items()
    for label, runs in labels.items()
    for one in runs
  ]
  if rows:
    head = ['task', 'kind', 'seed', 'shuffled / across states', 'dead units']
    parts.append(page.table(head, rows))
    parts.append(
      page.paragraph(
        "How much the policy's mean action changes when guidance vectors are"
        ' shuffled among states, against its change from state to state: at 0'
        ' guidance is ignored.',
        'faint',
      )
    )
  return [*parts, *_missing(results, 'guidance')]


def _errors(results, pictures):
  """The student's prediction error over the training."""
  if not results['errors']:
    return []
  parts = [page.heading('Prediction error over the training')]
  style = styles(results)
  for task, labels in results['errors'].items():
    parts += [
      pictures.add(
        f'errors-{task}',
        figures.errors(labels, f'Open-loop prediction, {task}', style),
        f"The student's open-loop prediction error on {task} over the"
        ' training, a line for each kind of run.',
        'On a few sequences of the replay at a time, mean over the predicted'
        ' frames, pixels in 0 to 1: of single points little can be said. Means'
        ' over the seeds, and thin the single ones.',
      ),
      page.table(
        ['kind', 'runs', 'mean error, first half', 'second half'],
        [
          [label, len(about['runs']), *about['halves']]
          for label, about in labels.items()
        ],
      ),
    ]
  return parts


def _prediction_table(labels):
  return page.table(
    ['kind', 'model', 'error of the first', 'of the last', 'mean'],
    [
      [label, name, errors[0], errors[-1], sum(errors) / len(errors)]
      for label, told in labels.items()
      for name, errors in told.items()
    ],
  )


def _histograms(task, label, one, pictures):
  """Of a label's first seed: others are in results.json."""
  drawn = {s: told for s, told in one['sources'].items() if told['recorded']}
  if not drawn:
    return []
  dims = max(len(told['recorded']) for told in drawn.values())
  return [
    pictures.add(
      f'actions-{task}-{label}',
      figures.actions(drawn, f'Actions, {task}, {label}, seed {one["seed"]}'),
      f'Histograms of recorded and replayed actions on {task}, {label}, by'
      ' source and action dimension.',
      'Filled: recorded; line: decoded from the prior. Those of other kinds'
      ' and seeds are in results.json.'
      + (' The first six dimensions.' if dims > 6 else ''),
    )
  ]


def _missing(results, name):
  """Who lacks a part, and how it is made."""
  lacking: dict[str, dict[str, list[str]]] = {}
  for task, labels in results['undiagnosed'].items():
    for label, told in labels.items():
      if name in told:
        lacking.setdefault(told[name], {}).setdefault(task, []).append(label)
  texts = []
  for why, tasks in lacking.items():
    who = '; '.join(f'{task}: {", ".join(x)}' for task, x in tasks.items())
    texts.append(f'Missing ({why}) for {who}.')
  return [page.paragraph(text, 'faint') for text in texts]
