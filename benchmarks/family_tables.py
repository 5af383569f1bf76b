"""Families by `seeded_onion` beside those by other recipes, for docs/onion.md: of few cheap runs, and of long ones

The form of `seeded_onion` is chosen by validation; everything else is on test.
"""
import small
from common import by_seed
from report import interval, mean, paired, spread, table, verdict

NAMES = dict(full='the full network alone', smallest='the smallest alone', seeded_onion='`seeded_onion()`',
             progressive_shrinking='once for all', bignas='BigNAS')
ALONE = 'full','smallest'
WITHIN = .5 # points that the largest network may lose

def label(name):
    recipe, _, rest = name.partition(',')
    return NAMES.get(recipe, recipe.replace('_', ' '))+(f',{rest}' if rest else '')

def runs_of(rs, name): return by_seed(rs, lambda r: r['name']==name)
def names_of(rs): return [*dict.fromkeys(r['name'] for r in rs if r['name']!='lr')]
def forms_of(rs): return [n for n in map(small.form_name, small.FORMS) if runs_of(rs, n)]

def test(r): return r['test']
def end(which): return lambda r: r[which][2] if which in r else r['test'] # a network alone has one number
def on_valid(r): return mean([valid for _,valid,_ in r['buckets'] if valid is not None])

def chosen(rs):
    "The form of `seeded_onion` that validation prefers, among those with the most seeds; None where there is none"
    forms = {n:runs_of(rs, n) for n in forms_of(rs)}
    most = max(map(len, forms.values()), default=0)
    ready = {n:mean([*map(on_valid, runs.values())]) for n,runs in forms.items() if len(runs)==most}
    return max(ready, key=ready.get, default=None)

def costs(rs, runs):
    "In trainings of the full network alone, by passes that are weighed by MACs"
    full = [r['steps'] for r in runs_of(rs, 'full').values()]
    return [r['full_passes']/mean(full) for r in runs.values() if 'full_passes' in r] if full else []

def recipes(rs):
    "A row per recipe, and the chosen form minus each of them"
    best = chosen(rs)
    mine = runs_of(rs, best) if best else {}
    def line(name):
        runs = runs_of(rs, name)
        c, alone = next(iter(runs.values()))['config'], name in ALONE
        ends = {which: spread([*map(end(which), runs.values())], ' (one run)') for which in ('smallest','largest')}
        if alone: ends = {'largest' if name=='full' else 'smallest': ends['largest']}
        cost = '1.00' if name=='full' else f'{mean(found):.2f}' if (found := costs(rs, runs)) else ''
        pareto = '' if alone else spread([*map(test, runs.values())], ' (one run)')
        beside = '' if alone or name==best else interval(paired(mine, runs, test), count=True)
        return [label(name), len(runs), c['epochs'], f"{c['lr']:g}", cost, ends.get('smallest', ''),
                ends.get('largest', ''), pareto, beside]
    numbers = 'seeds','epochs','lr','cost','smallest','largest','mean Pareto'
    return table(['', *numbers, f'{label(best or "")} minus this (seeds)'], map(line, names_of(rs)))

def aims(rs):
    "What the chosen form was to reach, beside each rival that has been run"
    best = chosen(rs)
    mine, body = runs_of(rs, best), []
    def add(aim, wanted, differences, bound=0., below=False):
        if not differences: return
        says = verdict(differences, bound, below=below)
        body.append([aim, wanted, interval(differences, '' if below else '+', count=True), says])
    for name in names_of(rs):
        if name in ALONE or name in forms_of(rs): continue
        add(f'mean Pareto accuracy, minus that of {label(name)}', 'at least 0', paired(mine, runs_of(rs, name), test))
    add('cost, in trainings of the full network alone', 'at most 1', costs(rs, mine), 1., below=True)
    for which,bound,wanted in (('smallest',0.,'at least 0'), ('largest',-WITHIN,f'at least -{WITHIN:g}')):
        alone = runs_of(rs, 'full' if which=='largest' else which)
        add(f'the {which} network, minus the same alone', wanted, paired(mine, alone, end(which)), bound)
    return table(['aim','wanted','found (seeds)',''], body) if body else ''

def section(rs, none):
    "Both tables, and which form it is; `none` where there are no families yet"
    if not forms_of(rs): return none
    chose = f'Chosen by validation among {len(forms_of(rs))} forms: **{label(chosen(rs))}**.'
    return '\n\n'.join(part for part in (chose, aims(rs), recipes(rs)) if part)
