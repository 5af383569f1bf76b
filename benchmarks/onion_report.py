"""docs/onion.md from the rows of results/onion.jsonl and the template pages/onion.md

python benchmarks/onion_report.py
"""
from common import by_seed, results, rows
from onion import (
    BASE, FOUR, LONG, LRS, NETS, PARENT, PUBLISHED, RECIPES, SCREEN, SEARCH, SHARE,
    base_rates, best_lr, by_rate, gpu, on_vgg, path, ratio, winners
)
import family_tables, shrink_report, small
from report import Page, half_width, interval, made, mean, paired, table, verdict

page = Page('onion')

RUNS = [*rows(path), *rows(results/'evidence_onion.jsonl')]
WIDTHS = [str(w) for w in FOUR]
BEST = next(iter(winners()), 'us_net') # of the screen
LIMIT = 1.03 # times the seconds of the four widths alone

# Runs, as seed -> row, at the learning rate that was chosen

def runs_of(name, net, recipe, width=None):
    wanted = net, recipe, width, best_lr(recipe, width, net)
    def same(c): return tuple(c.get(k) for k in ('net','recipe','width','lr'))==wanted
    return by_seed(RUNS, lambda r: r['name']==name and same(r['config']))

def runs_alone(net, name='alone'): return {w:runs_of(name, net, 'alone', float(w)) for w in WIDTHS}

def on_test(r): return r['test']['mean_pareto']
def on_valid(r): return r['valid']['mean_pareto']
def at_width(w): return lambda r: r['test']['widths'][w]
def seconds(r): return r['seconds']

def mean_of(runs, value, digits=2): return f'{mean([value(r) for r in runs.values()]):.{digits}f}' if runs else ''

def difference(runs, base, value):
    "With a word where the interval holds 0"
    found = paired(runs, base, value)
    says = f', not shown (n = {len(found)})' if found and verdict(found)=='not shown' else ''
    return interval(found)+says

# What was aimed at

def share_of_seconds(runs, alone):
    "Per seed: the seconds of a run over those of the four widths alone"
    return [r['seconds']/sum(of_width[s]['seconds'] for of_width in alone.values())
            for s,r in runs.items() if all(s in of_width for of_width in alone.values())]

SECONDS = 'seconds, as a share of those of the four widths alone, whose steps should make it 1'

def aims_of(net, name='confirm', alone='alone'):
    "Aim -> paired differences, for one network; runs have that `name`, those of single widths `alone`"
    runs, each = runs_of(name, net, BEST), runs_alone(net, alone)
    found = {}
    for other in PUBLISHED:
        if other!=BEST: found[f'mean Pareto above {other}'] = paired(runs, runs_of(name, net, other), on_test)
    for w,of_width in each.items(): found[f'width {w} at least as alone'] = paired(runs, of_width, at_width(w))
    found[SECONDS] = share_of_seconds(runs, each)
    return {aim:d for aim,d in found.items() if d}

def verdict_of(aim, found): return verdict(found, LIMIT, below=True) if aim==SECONDS else verdict(found)

def cell(aim, found):
    if len(found)<2: return interval(found) # says itself that it is one run
    says = verdict_of(aim, found)
    if says=='not shown': says += f' (n = {len(found)})'
    return f"{interval(found, sign='' if aim==SECONDS else '+')}, {says}"

def aims_table(name='confirm', alone='alone'):
    "A row per aim, a column per network, and the number of seeds"
    found = {net:aims_of(net, name, alone) for net in NETS}
    found = {net:aims for net,aims in found.items() if aims}
    names = dict.fromkeys(aim for aims in found.values() for aim in aims)
    body = [[aim, *[cell(aim, aims[aim]) if aim in aims else '' for aims in found.values()]] for aim in names]
    return table(['aim',*found], [*body, ['fresh seeds', *[len(runs_of(name, net, BEST)) for net in found]]])

@page.place
def aims(): return aims_table()

@page.place
def best(): return BEST

@page.place
def limit(): return f'{LIMIT:g}'

def short(aim): return aim.replace('mean Pareto above ', '').replace(' at least as alone', ' alone')

def where(net, says):
    "Aims of a network of which the differences say that"
    return [short(aim) for aim,found in aims_of(net).items() if aim!=SECONDS and verdict_of(aim, found)==says]

@page.place
def shown():
    "A line per network: than what the best of the screen is better, and than what it is not"
    words = {'reached':'better than', 'not reached':'worse than', 'not shown':'not shown to differ from'}
    lines = []
    for net in NETS:
        groups = {word:where(net, says) for says,word in words.items()}
        said = [f"{word} {', '.join(aims)}" for word,aims in groups.items() if aims]
        lines.append(f"- **{net}**: {'; '.join(said)}.")
    return '\n'.join(lines)

# The screen

def combined(): return dict.fromkeys(r['config']['recipe'] for r in RUNS if ' + ' in r['config']['recipe'])

@page.place
def screen():
    base, body = runs_of('screen', 'resnet', 'us_net'), []
    for recipe in [*RECIPES, *combined()]:
        runs = runs_of('screen', 'resnet', recipe)
        if not runs: continue
        c = next(iter(runs.values()))['config']
        body.append([recipe, f"{ratio('resnet', recipe):.2f}", c['steps'], f"{c['lr']:g}", mean_of(runs, on_valid),
                     '' if recipe=='us_net' else difference(runs, base, on_valid), to_parent(recipe, runs),
                     len(runs), mean_of(runs, seconds, 0)])
    return table(['','cost of a step','steps','rate','mean Pareto, validation','difference to US-Net',
                  'difference to its parent','runs','seconds'], body)

def to_parent(recipe, runs):
    if recipe not in PARENT: return ''
    found = difference(runs, runs_of('screen', 'resnet', PARENT[recipe]), on_valid)
    return f"{found} (*{PARENT[recipe].split(': ')[1]}*)"

@page.place
def rate_of_best():
    "At which rate the best of the screen is shown, if not at that of the others"
    got, rate = by_rate('screen', BEST, SCREEN[0]), base_rates()[0]
    if best_lr(BEST) in (None, rate): return ''
    return (f'What the selection ended with is shown at its better rate, {best_lr(BEST):g}; '
            f'at {rate:g}, the rate of the others, its first seed gave {got[rate]:.2f}.')

# Fresh seeds

def confirm(net, name='confirm', alone='alone'):
    "What the recipes, in rows of that `name`, and each width by itself gave on test"
    def tested(r): return r['name']==name and r['config']['net']==net and r['config']['recipe']!='alone'
    base, each = runs_of(name, net, 'us_net'), runs_alone(net, alone)
    total = sum(mean([r['seconds'] for r in runs.values()]) for runs in each.values())
    body = [['each width alone', *[mean_of(runs, at_width(w)) for w,runs in each.items()], '', '',
             max(map(len, each.values())), f'{total:.0f}']]
    for recipe in dict.fromkeys(r['config']['recipe'] for r in RUNS if tested(r)):
        runs = runs_of(name, net, recipe)
        if not runs: continue
        body.append([recipe, *[mean_of(runs, at_width(w)) for w in WIDTHS], mean_of(runs, on_test),
                     '' if recipe=='us_net' else difference(runs, base, on_test), len(runs), mean_of(runs, seconds, 0)])
    return table(['','.25','.5','.75','1','mean Pareto','difference to US-Net','runs','seconds'], body)

@page.place
def confirmed(): return '\n\n'.join(f'### {net}\n\n{confirm(net)}' for net in NETS)

@page.place
def longer_runs():
    "What holds for longer runs, where there are some"
    nets = [net for net in NETS if runs_of('long', net, BEST) and all(runs_alone(net, 'long').values())]
    if not nets: return 'Whether any of this holds for longer runs was not tried.'
    setting = f'{LONG} times the steps for all, the same learning rates.'
    tables = [f"{net}:\n\n{confirm(net, 'long', 'long')}" for net in nets]
    return '\n\n'.join(['', '### Longer runs', setting, aims_table('long', 'long'), *tables])

# Families: `seeded_onion` beside other recipes

SMALL_FAMILIES = rows(small.FAMILIES)

@page.place
def small_families():
    "Cheap runs, to choose its form"
    return family_tables.section(SMALL_FAMILIES, 'Not run yet: `make evidence` begins with them.')

@page.place
def long_families(): return family_tables.section(shrink_report.LONG, 'Not run yet (`make evidence`).')

@page.place
def families_setting():
    c = small.FAMILY
    return f"{c['n_train']:,} pictures, batch {c['bs']}, rates searched alike for all"

@page.place
def more_seeds():
    "Which networks got more than the first three seeds"
    some = [net for net in NETS if len(runs_of('confirm', net, 'us_net'))>3]
    if not some: return ''
    text = (f"The first three were run for every network. Then {' and '.join(some)} got more, after a look at "
            'intervals, which makes them a little narrower there than they should be.')
    wider = [net for net in NETS if net not in some and widest(net)>max(map(widest, some))]
    if wider: text += f" {' and '.join(wider)} got none, though intervals are wider there."
    return text

def widest(net): return max(half_width(found) for aim,found in aims_of(net).items() if aim!=SECONDS)

# Learning rates

def rate_line(label, one, two, chosen):
    "What the first and the second seed of a search gave at each rate"
    def found(lr): return ', '.join(f'{got[lr]:.2f}' for got in (one, two) if lr in got)
    open_end = not_between(one, chosen)
    return [label, *map(found, LRS), (f'{chosen:g}'+(f', {open_end}' if open_end else '')) if chosen else '']

def not_between(got, chosen):
    "Why a chosen rate does not lie between two others that were run; '' where it does"
    i = LRS.index(chosen) if chosen else 0
    if not chosen: return ''
    if i in (0, len(LRS)-1): return 'at the edge'
    missing = [lr for lr in (LRS[i-1], LRS[i+1]) if lr not in got]
    return f"{' and '.join(map(str, missing))} not run" if missing else ''

def label(recipe, width): return recipe if width is None else f'width {width:g} alone'

def searched(name): return dict.fromkeys((r['config']['recipe'], r['config'].get('width')) for r in RUNS if name(r))

def searches():
    "Label, what each seed of a search gave, and the rate that was chosen"
    searches = [('screen', SCREEN, r, None) for r in dict.fromkeys(['us_net', BEST])]
    searches += [('lr', SEARCH, r, w) for r,w in searched(lambda r: r['name']=='lr')]
    for name,seeds,recipe,width in searches:
        one, two = (by_rate(name, recipe, s, width) for s in seeds)
        yield label(recipe, width), one, two, best_lr(recipe, width)
    for recipe,width in searched(lambda r: r['name'] in ('confirm','alone') and r['config']['net']=='vgg'):
        yield f'vgg: {label(recipe, width)}', on_vgg(recipe, width), {}, best_lr(recipe, width, 'vgg')

@page.place
def learning_rates(): return table(['',*map(str, LRS),'chosen'], [rate_line(*search) for search in searches()])

@page.place
def open_searches():
    "Which chosen rates do not lie between two others that were run"
    some = [f'{label} ({chosen:g}: {why})' for label,one,_,chosen in searches() if (why := not_between(one, chosen))]
    return f"Not every best rate lies between worse ones: {'; '.join(some)}." if some else ''

@page.place
def n_comparisons(): return sum(aim!=SECONDS for net in NETS for aim in aims_of(net))

@page.place
def mobilenet_us_net(): return mean_of(runs_of('confirm', 'mobilenet', 'us_net'), at_width('0.25'))

# Settings

@page.place
def n_train(): return f"{BASE['n_train']:,}"

@page.place
def batch(): return BASE['bs']

@page.place
def base_steps():
    fewer = ''.join(f' ({share:g} of that for {net})' for net,share in SHARE.items() if share!=1)
    return f"{BASE['steps']} steps of the base{fewer}"

@page.place
def number_format():
    "Of the forward"
    return 'bf16 for all' if gpu else 'bf16 for all but MobileNet, which is faster in fp32'

@page.place
def rates(): return ', '.join(map(str, LRS))

@page.place
def screen_seeds(): return ', '.join(map(str, SCREEN))

@page.place
def fresh_seeds(): return ', '.join(map(str, sorted({r['config']['seed'] for r in RUNS if r['name']=='confirm'})))

@page.place
def made_where(): return made(onion=RUNS, families=SMALL_FAMILIES)

if __name__=='__main__': page.write()
