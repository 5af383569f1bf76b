"""A card per method: the claim, when it pays, what we measured, and where it comes from

Claims, sources and parameters are the docstrings of the library; what was measured is computed from the rows of
`benchmarks/results`, by the code that makes docs/verdicts.md. Only the sentence *when it pays* is written here.
"""
import inspect, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent

# Name -> (its notebook, when it pays, words that the claims of docs/verdicts.md about it hold)
METHODS = {
    'GrowWidth': ('grow/33_growing', 'Where a step of the narrow network is much cheaper than one of the whole: large '
                  'layers, large batches. `plan_stages` measures it before you train.',
                  ('ResNet-', 'grown in width', 'narrower start', 'DeepLabV3+', 'there, 2 stages')),
    'init_orthogonal': ('grow/30_widen', 'For the new channels of `GrowWidth`, whose default it is.', ('orthogonal',)),
    'GrowDepth': ('grow/33_growing', 'For networks of many equal blocks, such as ViTs: half of the blocks cost half of '
                  'the step.', ('in depth', 'DeiT-B, half', 'moving average', 'a ViT should')),
    'delayed_shrinking': ('shrink/25_methods', 'For a family from one training at little more than the cost of the '
                          'full network: half of the fit trains nothing else.',
                          ('mean Pareto', 'the smallest network', 'the largest network', 'figure 7')),
    'bignas': ('shrink/25_methods', 'Where every step may train four networks, and small ones matter from the start.',
               ('BigNAS',)),
    'progressive_shrinking': ('shrink/25_methods', 'For several kinds of choice at once (kernel, depth, width), and '
                              'training time to spare.', ('once-for-all',)),
    'compofa': ('shrink/25_methods', 'Where width and depth may go together, which makes the space small.',
                ('CompOFA',)),
    'slimmable': ('shrink/25_methods', 'For a handful of widths that are known before the training.', ('slimmable',)),
    'us_net': ('shrink/25_methods', 'For any width from one training.', ('US-Net',)),
    'onion': ('shrink/25_methods', 'For a handful of widths, each as good as it can be here: what won in our search.',
              ('better design',)),
}

def claims_of(words):
    "The claims that hold one of `words`, with what the rows say"
    sys.path.insert(0, str(root/'benchmarks'))
    import verdicts_report
    return [c for c in verdicts_report.CLAIMS if any(w in c.text or w in c.found.ours for w in words)]

def measured(words):
    from_rows = [f'- {c.text}: published {c.published}, here {c.found.ours or "nothing"}; **{c.found.verdict}**'
                 +(f' ({c.found.why})' if c.found.why else '') for c in claims_of(words)]
    return '\n'.join(from_rows) or '- nothing yet'

def card(name):
    "A method's card"
    import elastic_nets.all as lib
    book, pays, words = METHODS[name]
    said = inspect.cleandoc(str(getattr(lib, name).__doc__)).split('\n\n')
    parts = [f'## {name}', f'**What it is.** {said[0]}', f'**When it pays.** {pays}',
             f'**What we measured.**\n\n{measured(words)}']
    if len(said)>1: parts.append(' '.join(said[1:]))
    room = book.split('/')[0]
    parts.append(f'**More.** [Lesson](nbs/{book}.ipynb), [parameters](api/{room}.md#{name.lower()}), '
                 '[all verdicts and how they come about](docs/verdicts.md)')
    return '\n\n'.join(parts)

def page():
    return ('# Methods\n\n> A card for each: what it is, when it pays, what we measured, where it comes from\n\n'
            'The verdicts are computed from the rows of our runs, see [verdicts](docs/verdicts.md). Where it says *not '
            'shown*, our runs were too few or too short to say.\n\n'+'\n\n'.join(map(card, METHODS))+'\n')

if __name__=='__main__': print(page())
