"""What the reports share: the statistics, tables, and pages that are made from templates

A page is a template, pages/NAME.md. Each {{place}} in it is filled by the function of that name, which `page.place`
registers. A place without a function, and a function without a place, are errors.
"""
import re, statistics
from math import comb, inf
from scipy.stats import t as student_t
from common import root

# Statistics of runs: `runs` are seed -> row

def mean(xs): return statistics.mean(xs) if xs else float('nan')
median = statistics.median

def t_quantile(n): return float(student_t.ppf(.975, n-1)) # of Student's distribution for a mean of n values

def half_width(xs):
    "Half of the 95 % interval of a mean, by Student's t; infinite for one value, from which nothing follows"
    return t_quantile(len(xs))*statistics.stdev(xs)/len(xs)**.5 if len(xs)>1 else inf

def paired(runs, others, value, value_of_other=None):
    "Differences between runs with the same seed; a value that is None is left out"
    value_of_other = value_of_other or value
    pairs = [(value(runs[seed]), value_of_other(others[seed])) for seed in runs if seed in others]
    return [a-b for a,b in pairs if a is not None and b is not None]

def ratios(runs, others, value): return [value(runs[seed])/value(others[seed]) for seed in runs if seed in others]

def median_interval(xs):
    "Median with the 95 % interval that order statistics give; of fewer than 6 values, their range"
    xs, n = sorted(xs), len(xs)
    def outside(k): return sum(comb(n, i) for i in range(k))/2**n # odds that the median lies below the k-th value
    k = max([k for k in range(1, n//2+1) if outside(k)<=.025], default=1)
    return median(xs), xs[k-1], xs[n-k]

def verdict(differences, bound=0., yes='reached', no='not reached', below=False):
    "What differences say of 'at least `bound`' (with `below`: 'at most'): nothing where their 95 % interval holds it"
    if len(differences)<2: return 'one run'
    above = mean(differences)-half_width(differences)>bound
    under = mean(differences)+half_width(differences)<bound
    if above: return no if below else yes
    if under: return yes if below else no
    return 'not shown'

# Numbers as text

def spread(xs, one=''):
    "Mean ± standard deviation over runs; `one` stands behind a single value"
    if not xs: return ''
    return f'{mean(xs):.2f} ± {statistics.stdev(xs):.2f}' if len(xs)>1 else f'{mean(xs):.2f}{one}'

def interval(differences, sign='+', count=False):
    "Mean ± half of the 95 % interval, with the number of runs if asked for"
    n = len(differences)
    if not n: return ''
    if n==1: return f'{differences[0]:{sign}.2f} (one run)'
    return f'{mean(differences):{sign}.2f} ± {half_width(differences):.2f}'+(f' ({n})' if count else '')

def change(differences):
    "In words: 'loses 2.55 ± 1.31 points'"
    says = verdict(differences, yes='gains', no='loses')
    n = len(differences)
    if says not in ('gains','loses'): return f'is not shown to differ ({interval(differences)} points, n = {n})'
    return f'{says} {abs(mean(differences)):.2f} ± {half_width(differences):.2f} points'

def times(xs): return f'{median(xs):.2f}x' if xs else '' # a ratio over seeds

def table(head, body, left=1):
    "A markdown table, whose first columns have text and are set to the left"
    def line(cells):
        if any('|' in cell for cell in cells): raise ValueError(f'a cell holds the sign between cells: {cells}')
        return f"| {' | '.join(cells)} |"
    rule = '|'.join(['---']*left+['---:']*(len(head)-left))
    return '\n'.join([line(head), f'|{rule}|', *[line([*map(str, cells)]) for cells in body]])

def made(**groups):
    "Where rows were made: a line for each group of them"
    def line(name, rs):
        dates, commits = sorted({r['date'] for r in rs}), sorted({r['commit'] for r in rs})
        when = ' to '.join(dict.fromkeys((dates[0], dates[-1])))
        machines = ' and '.join(sorted({r['machine'] for r in rs}))
        return [name.replace('_', ' '), len(rs), machines, when, ', '.join(commits)]
    return table(['rows of','runs','machine','date','commits'], [line(name, rs) for name,rs in groups.items() if rs])

# Pages

class Page:
    "docs/`name`.md: the template pages/`name`.md with a function's text for each {{place}}, and its pictures"
    def __init__(self, name):
        self.name, self.places, self.pictures = name, {}, []
        self.template = root/f'benchmarks/pages/{name}.md'
        self.path = root/f'docs/{name}.md'

    def place(self, fill):
        "Register `fill` for the place of its name"
        if fill.__name__ in self.places: raise ValueError(f'{self.name}: two functions for {{{{{fill.__name__}}}}}')
        self.places[fill.__name__] = fill
        return fill

    def picture(self, draw):
        "Register `draw`, which returns a figure, for the file docs/`name`_`of it`.png"
        self.pictures.append(draw)
        return draw

    def render(self):
        "The text of the page"
        text = self.template.read_text(encoding='utf-8')
        named = {*re.findall(r'{{(.*?)}}', text)}
        if missing := named-{*self.places}: raise ValueError(f'{self.template.name}: nothing fills {sorted(missing)}')
        if unused := {*self.places}-named: raise ValueError(f'{self.template.name}: no place for {sorted(unused)}')
        text = re.sub(r'{{(.*?)}}', lambda found: str(self.places[found[1]]()), text)
        text = '\n'.join(l.rstrip() for l in text.split('\n'))
        return re.sub(r'\n{3,}', '\n\n', text)

    def write(self):
        "Page and pictures"
        self.path.write_text(self.render(), encoding='utf-8')
        for draw in self.pictures:
            draw().savefig(root/f'docs/{self.name}_{draw.__name__}.png', metadata=dict(Software=None))

def figure(*args, **kw):
    "A figure and its axes, without a screen"
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    return plt.subplots(*args, dpi=80, layout='constrained', **kw)
