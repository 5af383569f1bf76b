"""docs/shrinking.md and its pictures from the rows of results/shrink*.jsonl and the template pages/shrinking.md

python benchmarks/shrink_report.py
"""
from common import by_seed, results, rows
import card, shrink, shrink_cost
from report import Page, change, figure, interval, made, mean, median, paired, ratios, spread, table, times, verdict

page = Page('shrinking')

RUNS, COST = rows(shrink.path), rows(shrink_cost.path)
BASELINES = ('bignas','progressive_shrinking','compofa')
NAMES = dict(delayed_shrinking='delayed shrinking', bignas='BigNAS', progressive_shrinking='once for all',
             compofa='CompOFA', full='the full network alone', smallest='the smallest alone')
ALL = ('delayed_shrinking', *BASELINES, 'full', 'smallest')

# Runs, as seed -> row, and what they are worth

def runs_of(name, **options):
    "Runs of that name in the ResNet space; `options` are those of the recipe"
    def same(c): return c['net']=='resnet' and all(c['options'].get(k)==v for k,v in options.items())
    return by_seed(RUNS, lambda r: r['name']==name and same(r['config']))

def on_gpu(recipe, kernels):
    "Runs in MobileNetV3's space"
    def same(c): return c['net']=='mobilenet' and c['kernels']==kernels
    return by_seed(RUNS, lambda r: r['name']==recipe and same(r['config']))

def short_mobile(recipe): return by_seed(RUNS, lambda r: r['name']=='mobilenet' and r['config']['recipe']==recipe)

def test(r): return r['test']
def smallest(r): return r['smallest'][2]
def largest(r): return r['largest'][2]
def bucket(i): return lambda r: r['buckets'][i][2]
def spent(r): return r['seconds' if 'gpu' in r else 'cpu_seconds']

def spread_of(runs, value): return spread([v for r in runs.values() if (v := value(r)) is not None])
def config_of(runs): return next(iter(runs.values()))['config']

MINE = runs_of('delayed_shrinking')
HALF, QUARTER, LATE = (runs_of('start', warmup=w) for w in (.5,.25,.75))
PLAIN, LONGER, IN_PLACE = runs_of('no epsilon'), runs_of('longer ramp'), runs_of('in place')
FULL = runs_of('full') # the full network alone

# What steps cost

def delayed_cost(ratio, warmup=shrink.DEPS['warmup']):
    "A step of delayed shrinking in steps of the full network, mean of the run"
    return warmup+(1-warmup)*ratio['full and 3']

def once_for_all_cost(ratio): # the phases of a space without kernels
    return (180+150*ratio['teacher and 2 depths']+150*ratio['teacher and 4'])/480

def ratios_of_steps(r): return {kind:ratio for kind,(_,ratio) in r['kinds'].items()}

def measured_steps():
    "Kind of step -> times a step of the full network, as in the runs on the ResNet space"
    like = dict(net='ResNet-20 space', format='bf16 channels_last', gpu=False, bs=64, threads=1)
    return ratios_of_steps([r for r in COST if r['name']=='steps' and like.items()<=r['config'].items()][-1])

def format_of(c):
    if c['gpu']: return f"{c['format']} (GPU)"
    return f"{c['format']} ({c['threads']} thread{'s' if c['threads']>1 else ''})"

@page.place
def steps():
    kinds = [k for k in shrink_cost.KINDS if k!='full']
    def line(r):
        c, ratio = r['config'], ratios_of_steps(r)
        delayed = delayed_cost(ratio)
        return [f"{c['net']}, batch {c['bs']}", format_of(c), f"{r['kinds']['full'][0]:.0f}",
                *[f'{ratio[k]:.2f}' for k in kinds], f'{delayed:.2f}',
                f"{400*ratio['sandwich']/270/delayed:.2f}x", f'{605*once_for_all_cost(ratio)/270/delayed:.2f}x']
    return table(['','format','ms of the full network',*kinds,'delayed shrinking, its mean','allowed: BigNAS',
                  'allowed: once for all'], [line(r) for r in COST if r['name']=='steps'])

def memory_groups(rule=None):
    "(network, format, batch, on a GPU, rule) -> number of networks -> row"
    groups = {}
    for r in COST:
        c = r['config']
        if r['name']!='memory' or rule not in (None, c['rule']): continue
        groups.setdefault(tuple(c[k] for k in ('net','format','bs','gpu','rule')), {})[c['k']] = r
    return groups

def growth(group):
    "Per cent by which the largest peak is above the smallest"
    peaks = [r['mb'] for r in group.values()]
    return 100*(max(peaks)/min(peaks)-1)

@page.place
def memory():
    body = []
    for (net,fmt,bs,gpu,rule),group in memory_groups().items():
        peaks = [f"{group[k]['mb']:.0f}" if k in group else '' for k in shrink_cost.NETWORKS]
        body.append([f'{net}, batch {bs}', fmt+(' (GPU)' if gpu else ''), rule, *peaks, f'{growth(group):.1f} %'])
    return table(['','format','rule',*map(str, shrink_cost.NETWORKS),'most over least'], body)

# What networks are worth

def accuracies(recipe, runs):
    "Cells for the smallest network, six buckets, the largest, and the mean"
    if recipe=='full': return ['']*7+[spread_of(runs, test), '']
    if recipe=='smallest': return [spread_of(runs, test)]+['']*8
    buckets = [spread_of(runs, bucket(i)) for i in range(6)]
    return [spread_of(runs, smallest), *buckets, spread_of(runs, largest), spread_of(runs, test)]

def passes(recipe, runs):
    "Cells for the passes of a run and the same in full passes"
    if recipe=='full': return [f"{mean([r['steps'] for r in runs.values()]):,.0f}"]*2
    if recipe=='smallest': return ['','']
    return [f'{mean([r[k] for r in runs.values()]):,.0f}' for k in ('passes','full_passes')]

def family(runs_for):
    "A row per recipe; `runs_for` gives its runs"
    mine, body = runs_for('delayed_shrinking'), []
    for recipe in ALL:
        runs = runs_for(recipe)
        if not runs: continue
        c, itself = config_of(runs), recipe in ('delayed_shrinking', *shrink.ALONE)
        difference = '' if itself else interval(paired(mine, runs, test), count=True)
        seconds = mean([spent(r) for r in runs.values()])
        body.append([NAMES[recipe], len(runs), c['epochs'], f"{c['lr']:g}", *accuracies(recipe, runs), difference,
                     f'{seconds:.0f}', times(ratios(runs, mine, spent)), *passes(recipe, runs)])
    seconds = 'seconds' if any('gpu' in r for r in mine.values()) else 'processor seconds'
    return table(['','seeds','epochs','lr','smallest',*[f'bucket {i}' for i in range(1,7)],'largest','mean Pareto',
                  'delayed shrinking minus this (seeds)',seconds,'cost','passes','in full passes'], body)

@page.place
def cifar(): return family(runs_of)

@page.place
def mobile(): return family(short_mobile)

@page.place
def mobile_on_gpu():
    "The papers' own space in full, where a GPU was at hand"
    text = []
    for kernels in ([7],[3,5,7]):
        if not on_gpu('delayed_shrinking', kernels): continue
        found = family(lambda recipe: on_gpu(recipe, kernels))
        text += [f"Kernels {', '.join(map(str, kernels))}; 45,000 training pictures, on a GPU:", '', found, '']
    return '\n'.join(text)

@page.place
def learning_rates():
    def key(r): return r['config']['net'], r['config']['recipe']
    rs, body = [r for r in RUNS if r['name']=='lr'], []
    lrs = sorted({r['config']['lr'] for r in rs})
    for net,recipe in dict.fromkeys(map(key, rs)):
        valid = {r['config']['lr']:r['valid'] for r in rs if key(r)==(net,recipe)}
        best = max(valid, key=valid.get)
        edge = ', at the edge' if best in (lrs[0], lrs[-1]) else ''
        found = [f'{valid[lr]:.2f}' if lr in valid else '' for lr in lrs]
        body.append([f'{NAMES[recipe]}, {net}', *found, f'{best:g}{edge}'])
    return table(['',*[f'{lr:g}' for lr in lrs],'chosen'], body)

# Figure 7 of the paper

ABLATIONS = {
    'as in the table above': MINE, 'start at 25 %': QUARTER, 'start at 50 %': HALF, 'start at 75 %': LATE,
    'without epsilon': PLAIN, 'epsilon for a fifth of the run': LONGER, 'in place from the start, 3 epochs': IN_PLACE,
}

@page.place
def ablations():
    def line(label, runs):
        difference = '' if runs is MINE else interval(paired(runs, MINE, test), count=True)
        return [label, len(runs), config_of(runs)['epochs'], spread_of(runs, smallest), spread_of(runs, largest),
                spread_of(runs, test), difference, times(ratios(runs, MINE, spent))]
    return table(['','seeds','epochs','smallest','largest','mean Pareto','difference (seeds)','cost'],
                 [line(label, runs) for label,runs in ABLATIONS.items() if runs])

def watched(r, after, until):
    "Mean accuracy of the full network from `after` (not included) to `until` epochs after shrinking started"
    epoch = r['of_steps']/r['config']['epochs']
    found = [a for i,a in r['around'] if after<i/epoch<=until+1e-6]
    return mean(found) if found else None

def drop(r): return watched(r,0,.5)-watched(r,-1,0) if r['around'] else None
def deepest(r): return min(a for i,a in r['around'] if i>0)-watched(r,-1,0)

WATCHED = {'with epsilon':MINE, 'without':PLAIN, 'with epsilon for a fifth of the run':LONGER,
           'the full network alone':FULL}

@page.place
def full_network():
    parts = ((-1,0), (0,.25), (.25,.5), (.5,1))
    def line(label, runs):
        of_parts = [spread_of(runs, lambda r: watched(r, *part)) for part in parts]
        beside = '' if runs is FULL else interval(paired(runs, FULL, drop))
        return [label, len(runs), *of_parts, spread_of(runs, drop), beside, spread_of(runs, deepest)]
    return table(['','seeds','the half epoch before','first quarter','second quarter','second half',
                  'half an epoch after minus before','the same minus that of the network alone',
                  'lowest after minus before'],
                 [line(label, runs) for label,runs in WATCHED.items()])

@page.place
def claims():
    "What the paper says of its parts, and what there is of it here"
    todo = [('7a: start at 50 % above 25 %, mean Pareto', 'best', paired(HALF, QUARTER, test)),
            ('7a: start at 50 % above 75 %, mean Pareto', 'best', paired(HALF, LATE, test)),
            ('7b: with epsilon above without, mean Pareto', 'above in all of the range', paired(MINE, PLAIN, test)),
            ('7b: without epsilon, the full network falls behind the same network alone', '2 points',
             paired(FULL, PLAIN, drop)),
            ('7b: with epsilon it falls behind less', 'no drop', paired(MINE, PLAIN, drop)),
            ('7b: with epsilon for a fifth of the run it falls behind less', 'no drop', paired(LONGER, PLAIN, drop)),
            ('7c: distilled from a warmed-up network above in place from the start (see below)', '2 to 3.5 points',
             paired(MINE, IN_PLACE, test))]
    def says(found): return verdict(found, yes='reproduces', no='does not')
    return table(['claim','paper','here, points','runs',''],
                 [[claim, paper, interval(found), len(found), says(found)] for claim,paper,found in todo])

# What was aimed at

@page.place
def aims():
    body = []
    def points(aim, found): body.append([aim, 'at least 0', interval(found), len(found), verdict(found)])
    for recipe in BASELINES:
        points(f'mean Pareto accuracy, delayed shrinking minus {NAMES[recipe]}', paired(MINE, runs_of(recipe), test))
    body += [aim_of_cost('bignas', '2.5x', lambda steps: steps['sandwich']),
             aim_of_cost('progressive_shrinking', '1.8x', once_for_all_cost)]
    points('smallest subnet minus the same network trained alone', paired(MINE, runs_of('smallest'), smallest, test))
    start = 'full network where shrinking starts: what it gains in half an epoch minus what the network alone gains'
    points(start, paired(MINE, FULL, drop))
    points(f'{start}, with epsilon for a fifth of the run', paired(LONGER, FULL, drop))
    for (net,fmt,_,gpu,_),group in memory_groups('sum').items():
        where = f"{net}, {fmt}{', GPU' if gpu else ''}"
        body.append([f'peak memory of 2, 4, 8 networks, {where}', 'within 5 %', f'{growth(group):.1f} %', len(group),
                     'reached' if growth(group)<=5 else 'not reached'])
    return table(['aim','wanted','found','runs',''], body)

def aim_of_cost(recipe, paper, cost_of_step):
    "The cost of a recipe over that of delayed shrinking, beside what the times of steps allow"
    runs, steps = runs_of(recipe), measured_steps()
    found = ratios(runs, MINE, spent)
    allowed = cost_of_step(steps)/delayed_cost(steps)*config_of(runs)['epochs']/config_of(MINE)['epochs']
    says = 'reached' if median(found)>=.97*allowed else 'not reached'
    return [f'cost of {NAMES[recipe]} over that of delayed shrinking (paper: {paper})',
            f'{allowed:.2f}x, what the steps allow', f'{times(found)} ({min(found):.2f} to {max(found):.2f})',
            len(found), says]

# On a GPU

@page.place
def gpu_machine(): return ' and '.join(sorted({r['machine'] for r in [*card.KINDS, *card.family_rows()]}))

@page.place
def gpu_kinds(): return card.kinds_table()

@page.place
def gpu_peaks(): return card.peaks_table()

@page.place
def gpu_families(): return card.family_table(NAMES)

# Four times the steps, on one core

LONG = rows(results/'evidence_family.jsonl')

def long_runs_of(name): return by_seed(LONG, lambda r: r['name']==name)

@page.place
def longer():
    "As far as they are done"
    names = [n for n in dict.fromkeys(r['name'] for r in LONG) if n!='lr']
    if not names: return 'Runs of four times the steps, and those on hard labels (`make evidence`), are not done.'
    body = []
    for name in names:
        runs = long_runs_of(name)
        c = config_of(runs)
        alone, mine = c['recipe'] in shrink.ALONE, long_runs_of('delayed_shrinking')
        cells = accuracies(c['recipe'], runs)
        beside = '' if alone or name=='delayed_shrinking' else interval(paired(mine, runs, test), count=True)
        body.append([NAMES.get(name, name.replace('_', ' ')), len(runs), c['epochs'], f"{c['lr']:g}", cells[0],
                     *cells[-2:], beside])
    return table(['','seeds','epochs','lr','smallest','largest','mean Pareto','delayed shrinking minus this (seeds)'],
                 body)

# The findings in words

@page.place
def pareto_found():
    def one(recipe): return f'{interval(paired(MINE, runs_of(recipe), test))} against {NAMES[recipe]}'
    return ', '.join(map(one, BASELINES))

@page.place
def cost_found():
    def one(recipe): return f'{NAMES[recipe]} {times(ratios(runs_of(recipe), MINE, spent))}'
    return ', '.join(map(one, BASELINES))

@page.place
def smallest_found(): return change(paired(MINE, runs_of('smallest'), smallest, test))

@page.place
def smallest_beside():
    "The smallest network beside those of the baselines that train it from the start"
    def one(recipe): return f'{interval(paired(MINE, runs_of(recipe), smallest))} against that of {NAMES[recipe]}'
    pairs = [d for recipe in ('bignas','progressive_shrinking') for d in paired(MINE, runs_of(recipe), smallest)]
    both = ', '.join(map(one, ('bignas','progressive_shrinking')))
    return f'{both}, and {sum(d<0 for d in pairs)} of {len(pairs)} pairs are negative'

@page.place
def largest_found(): return change(paired(MINE, FULL, largest, test))

@page.place
def drop_found():
    "Of the full network beside the one alone: without epsilon, with the paper's ramp, with a longer one"
    without, with_it, longer = (interval(paired(runs, FULL, drop)) for runs in (PLAIN, MINE, LONGER))
    return (f"{without} points without epsilon, {with_it} with the paper's ramp, "
            f'{longer} with a ramp of a fifth of the run')

@page.place
def alone_gains(): return spread_of(FULL, drop)

@page.place
def ramp_trade():
    "What the longer ramp does to both ends"
    at_smallest, at_largest = (interval(paired(LONGER, MINE, value)) for value in (smallest, largest))
    return f'{at_smallest} for the smallest network, {at_largest} for the largest'

@page.place
def bignas_mean(): return spread_of(runs_of('bignas'), test)

@page.place
def in_place_mean(): return spread_of(IN_PLACE, test)

@page.place
def memory_found(): return f"{max(map(growth, memory_groups('sum').values())):.1f} %"

@page.place
def start_found():
    return f'{interval(paired(HALF, QUARTER, test))} against 25 %, {interval(paired(HALF, LATE, test))} against 75 %'

# Pictures

@page.picture
def pareto():
    import numpy as np
    fig,ax = figure(figsize=(6,3))
    families = {recipe:runs_of(recipe) for recipe in ('delayed_shrinking', *BASELINES)}
    ends = [r[end][0] for runs in families.values() for r in runs.values() for end in ('smallest','largest')]
    budgets = np.linspace(min(ends), max(ends), 200)
    def best(r, budget): return max((macs,test) for macs,_,test in r['front'] if macs<=budget)[1]
    for recipe,runs in families.items():
        found = np.array([[best(r, budget) for budget in budgets] for r in runs.values()])
        line, = ax.plot(budgets/1e6, found.mean(0), label=f'{NAMES[recipe]} ({len(runs)})')
        color = line.get_color()
        if len(found)>1: ax.fill_between(budgets/1e6, found.min(0), found.max(0), color=color, alpha=.15, lw=0)
    for recipe,macs,mark in (('full',max(ends),'k*'), ('smallest',min(ends),'k^')):
        ax.plot(macs/1e6, mean([test(r) for r in runs_of(recipe).values()]), mark, ms=7, label=NAMES[recipe])
    ax.set(xlabel='million MACs', ylabel='test accuracy, %')
    ax.legend(frameon=False, fontsize=8)
    return fig

@page.picture
def full():
    import numpy as np
    fig,ax = figure(figsize=(6,2.6))
    for label,runs in WATCHED.items():
        r = next(iter(runs.values()))
        epochs = np.array([i for i,_ in r['around']])/(r['of_steps']/r['config']['epochs'])
        ax.plot(epochs, np.mean([[a for _,a in r['around']] for r in runs.values()], 0), label=f'{label} ({len(runs)})')
    ax.axvline(0, color='k', lw=.5, ls=':')
    ax.set(xlabel='epochs since shrinking started', ylabel='full network, validation, %')
    ax.legend(frameon=False, fontsize=8)
    return fig

@page.place
def made_where():
    of_recipes = [r for recipe in NAMES for r in runs_of(recipe).values()]
    parts = [r for label,runs in ABLATIONS.items() if runs is not MINE for r in runs.values()]
    steps, memory = ([r for r in COST if r['name']==name] for name in ('steps','memory'))
    mobile = [r for r in RUNS if r['config']['net']=='mobilenet' and r['name']!='lr']
    return made(seconds_of_a_step=steps, peak_memory=memory, learning_rates=[r for r in RUNS if r['name']=='lr'],
                recipes=of_recipes, figure_7=parts, MobileNetV3=mobile,
                on_a_GPU=[*card.KINDS, *card.PEAKS, *card.family_rows()], longer_runs=LONG)

if __name__=='__main__': page.write()
