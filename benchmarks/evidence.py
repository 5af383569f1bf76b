"""One queue of long runs on one core: what the pages leave open because their runs are short

Rows of results/evidence_*.jsonl, one for each finished run; a restart goes on with the next. What a verdict hangs on
comes first. Costs are not taken from these runs, which may share a machine, but from steps that were measured in turn.

nice -n 19 python benchmarks/evidence.py [--only NAME ...] [--seeds 0 1 2] [--list]
"""
import argparse, os, sys, time, traceback
from collections import namedtuple
import torch
from card import pass_time
from common import results, rows, write_row
from grow import PLAN
from grow_report import step_times
import family_tables, grow_steps, onion, shrink, shrink_cost, small
from trials import FAMILY, GROWTH, family, growth, rate_runs, search, valid_of

Kind = namedtuple('Kind', 'path train')
BUSY = 1.5 # load above which no steps are measured; this queue itself makes 1

# What the rows of a kind hold, and how one is made

def measure_steps(c):
    "Milliseconds of steps, in turn"
    if c['what']=='growth':
        cbs = grow_steps.FORMATS['bf16 channels_last']
        return dict(sizes=grow_steps.measure(grow_steps.NETS[c['net']], '', cbs, c['rounds'], 'cpu'), load=load())
    return dict(kinds=shrink_cost.steps(shrink_cost.NETS[c['net']], 'bf16 channels_last', c['rounds']), load=load())

def load(): return round(os.getloadavg()[0], 2)
def path_of(kind): return results/f'evidence_{kind}.jsonl'

KINDS = {kind: Kind(path_of(kind), train)
         for kind,train in dict(steps=measure_steps, growth=growth, onion=onion.train, family=family, small=growth,
                                small_family=family).items()}
GROWN, FAMILIES = KINDS['growth'].path, KINDS['family'].path

# Steps

STEPS = (dict(what='growth', net='ResNet-20, base 32', rounds=5), dict(what='family', net='ResNet-20 space', rounds=15))

def steps():
    "Only while the machine has nothing else to do"
    if load()<BUSY: yield from ((c['what'], c) for c in STEPS)

# Growth, where dense reaches 85 %

ENOUGH = 85. # per cent of a dense network, from which a verdict is given
EPOCHS = (12,18,27) # the first with which the dense network has it
SEARCH = dict(GROWTH, n_train=20_000, epochs=6, seed=100)
RATES = dict(cycle=(.1,.2,.4), flat=(.05,.1,.2))

def searched(schedule): return dict(SEARCH, schedule=schedule)
def best_rate(schedule): return search(GROWN, 'lr', searched(schedule), RATES[schedule])[1]

def dense_base():
    "The dense network's best schedule, rate and weight decay, of six epochs; None before they are known"
    best = {s:best_rate(s) for s in RATES}
    if None in best.values(): return None
    tried = [dict(searched(s), lr=lr) for s,lr in best.items()]
    tried.append(dict(tried[0], wd=5e-4))
    found = [valid_of(GROWN, 'lr', c) for c in tried]
    if None in found: return None
    return tried[found.index(max(found))]

def growth_search():
    "Rates for both schedules, alike; then the weight decay of the other pages"
    for s in RATES: yield from rate_runs(GROWN, 'lr', searched(s), RATES[s])
    if (lr := best_rate('cycle')) is not None: yield 'lr', dict(searched('cycle'), lr=lr, wd=5e-4)

def dense_run(base, epochs, seed):
    return dict(GROWTH, **{k:base[k] for k in ('lr','schedule','wd')}, epochs=epochs, seed=seed)

def enough_epochs(base):
    "The first of `EPOCHS` with which the dense network is good enough, or which has not been tried"
    for epochs in EPOCHS:
        found = valid_of(GROWN, 'dense', dense_run(base, epochs, 0))
        if found is None or found>=ENOUGH: return epochs
    return EPOCHS[-1]

def plan_passes(plan): return pass_time(step_times('ResNet-20, base 32', 'bf16 channels_last'), plan)

def growth_runs(seed):
    "Dense and grown for equal epochs and for equal cost, by measured steps"
    base = dense_base()
    if base is None: return
    epochs = enough_epochs(base)
    dense = dense_run(base, epochs, seed)
    yield 'dense', dense
    if valid_of(GROWN, 'dense', dense_run(base, epochs, 0)) is None: return # more epochs may be needed
    grown = dict(dense, plan=PLAN, init='orthogonal')
    yield 'plan', grown
    yield 'plan, equal cost', dict(grown, epochs=round(epochs/plan_passes(PLAN)))
    yield 'dense, cost of the plan', dict(dense, epochs=round(epochs*plan_passes(PLAN)))

def growth_options(seed):
    "Where and how to grow, at equal epochs: most important first"
    base = dense_base()
    if base is None: return
    dense = dense_run(base, enough_epochs(base), seed)
    plan = dict(plan=PLAN, init='orthogonal')
    flat = dict(dense, schedule='flat', lr=best_rate('flat'), wd=SEARCH['wd'])
    yield 'flat, dense', flat
    yield 'flat', dict(flat, **plan)
    yield 'flat, late doubling', dict(flat, plan=small.LATE, init='orthogonal')
    for init in small.INITS[1:]: yield init, dict(dense, plan=PLAN, init=init)
    for name,change in small.OPTIONS.items(): yield name, dict(dense, **{**plan, **change})
    yield 'smaller pictures, dense', dict(dense, sizes=small.SIZES)

# The onion and its rivals at four times the steps

def onion_runs(net, seed):
    "At the learning rates of the short runs"
    for recipe in (*onion.PUBLISHED, *onion.winners()[:1]):
        yield from onion.confirming(net, recipe, None, seed, onion.LONG)
    for width in onion.FOUR: yield from onion.confirming(net, 'alone', width, seed, onion.LONG)

# Families at four times the steps, and on hard labels

TIMES = 4
WITH_LABELS = ('delayed_shrinking','bignas')

def best_form():
    "Of `seeded_onion`, by the cheap runs; its defaults before they are there"
    name = family_tables.chosen(rows(small.FAMILIES))
    return next((form for form in small.FORMS if small.form_name(form)==name), '')

def short(recipe, **kw):
    return dict(shrink.new(recipe, FAMILY, search=True, epochs=shrink.SHORT[recipe], per=1, seed=100), **kw)

def short_seeded():
    return dict(FAMILY, recipe='seeded_onion', search=True, epochs=2, per=1, options=small.SEEDED, seed=100)

def family_search():
    "The rates of what shrink.py has no rate for, as it searches them"
    for c in (*[short(r, **small.HARD) for r in WITH_LABELS], short_seeded()):
        yield from rate_runs(FAMILIES, 'lr', c, shrink.LRS)

def family_runs(seed):
    "Each recipe at its rate, where that is known"
    def long(recipe): return shrink.new(recipe, FAMILY, epochs=TIMES*shrink.EPOCHS[recipe], seed=seed)
    def rated(name, c, lr):
        if lr is not None: yield name, dict(c, lr=lr)
    for r in WITH_LABELS:
        lr = search(FAMILIES, 'lr', short(r, **small.HARD), shrink.LRS)[1]
        yield from rated(f'{r}, hard labels', dict(long(r), **small.HARD), lr)
    for name,c in seeded_runs(seed, dict.fromkeys(['', best_form()])): yield name, c
    for r in ('full','delayed_shrinking','bignas','progressive_shrinking','smallest'):
        yield from rated(r, long(r), shrink.best_lr(long(r)))

def seeded_run(seed, **options):
    "For as many epochs as the full network alone; None before its rate is known"
    lr = search(FAMILIES, 'lr', short_seeded(), shrink.LRS)[1]
    epochs = TIMES*shrink.EPOCHS['full']
    own = dict(recipe='seeded_onion', search=False, epochs=epochs, options={**small.SEEDED, **options})
    return None if lr is None else {**FAMILY, **own, 'seed':seed, 'lr':lr}

def seeded_runs(seed, forms):
    for form in forms:
        c = seeded_run(seed, **small.FORMS[form])
        if c is not None: yield small.form_name(form), c

# The queue

def configs(seeds):
    "(kind, name, configuration) of each run, in order"
    def of(kind, runs): return ((kind, name, c) for name,c in runs)
    yield from of('steps', steps())
    yield from small.configs(small.GROWN, small.FAMILIES) # cheap: some hours
    yield from of('growth', growth_search())
    for s in seeds: yield from of('growth', growth_runs(s))
    for s in seeds: yield from of('onion', onion_runs('vgg', onion.FRESH[s]))
    yield from of('family', family_search())
    for s in seeds: yield from of('family', family_runs(s))
    yield from of('family', seeded_runs(seeds[0], small.FORMS)) # one seed each
    for s in seeds: yield from of('growth', growth_options(s))
    for s in seeds: yield from of('onion', onion_runs('resnet', onion.FRESH[s]))

def run_next(asked, kinds, failed, only=()):
    "The first run that is not yet a row; False where there is none. One that fails is not tried again by this process"
    for kind,name,c in asked:
        if only and name not in only or (kind,str(c)) in failed: continue
        try:
            with write_row(kinds[kind].path, name, c) as row:
                if row is None: continue
                begin = time.perf_counter()
                row.update(kind=kind, **kinds[kind].train(c), threads=torch.get_num_threads())
                row['all'] = round(time.perf_counter()-begin, 1) # seconds, with data and evaluation
        except Exception:
            failed.add((kind,str(c)))
            traceback.print_exc()
        return True
    return False

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*', default=[], help='names of runs')
    p.add_argument('--seeds', nargs='*', type=int, default=[0,1,2])
    p.add_argument('--list', action='store_true', help='run nothing, say what there is')
    a = p.parse_args()
    torch.set_num_threads(1)
    failed = set()
    if a.list:
        for kind,name,c in configs(a.seeds):
            done = any(r['config']==c for r in rows(KINDS[kind].path))
            print(kind, name, c, 'done' if done else '')
        return
    while run_next(configs(a.seeds), KINDS, failed, a.only): pass
    sys.exit(bool(failed))

if __name__=='__main__': main()
