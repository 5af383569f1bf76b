"""Cheap runs that choose defaults: a small network grown in many ways with many seeds, and families at small scale

Five minutes each on a slow core, without bf16. `evidence.py` and `gpu_evidence.py` run them before anything else.
"""
from common import results
from grow import PLAN, UNIFORM
import shrink
from trials import FAMILY, GROWTH, rate_runs, search

GROWN, FAMILIES = (results/f'evidence_{kind}.jsonl' for kind in ('small','small_family'))

# Growth of a ResNet-8, from base width 8 to 16

BASE = dict(GROWTH, net=8, width=16, n_train=10_000, epochs=10, fmt='fp32 channels_last') # many processors lack bf16
RATES = dict(cycle=(.2,.4,.8), flat=(.1,.2,.4))
SEEDS, SOME, FEW = range(8), range(5), range(3) # for the init, for other options, for a look

INITS = ('orthogonal','random','variance','replicate','lemon','half')
LATE = [[.5,0.],[1.,.8]] # one doubling, late
SIZES = [[16,0.],[24,.3],[32,.6]] # pixels, and from which part of the fit on
OPTIONS = { # what is changed in growth as it is by default
    'uniform': dict(plan=UNIFORM), 'late doubling': dict(plan=LATE), 'auto': dict(plan='auto'),
    'state forgotten': dict(carry=False), 'rewarmed': dict(rewarm=.05),
    'rewarmed, new channels alone': dict(rewarm=.05, only_new=True), 'smaller pictures too': dict(sizes=SIZES)}
HIGH = 4 # times the best rate: does growth destroy there, and what prevents it?

def growth_search(path, schedule, base=BASE):
    yield from rate_runs(path, 'lr', dict(base, schedule=schedule, seed=100), RATES[schedule])

def dense_run(path, schedule, seed, base=BASE):
    "The dense network at the rate that was searched for it; None before that is known"
    lr = search(path, 'lr', dict(base, schedule=schedule, seed=100), RATES[schedule])[1]
    return None if lr is None else dict(base, schedule=schedule, lr=lr, seed=seed)

def init_runs(path, seed, base=BASE):
    "How new channels begin, beside the dense network"
    dense = dense_run(path, 'cycle', seed, base)
    if dense is None: return
    yield 'dense', dense
    for init in INITS: yield init, dict(dense, plan=PLAN, init=init)

def high_runs(path, seed, base=BASE):
    "At a rate that is too high"
    dense = dense_run(path, 'cycle', seed, base)
    if dense is None: return
    dense['lr'] *= HIGH
    grown = dict(dense, plan=PLAN, init='orthogonal')
    yield 'high rate, dense', dense
    yield 'high rate', grown
    for name in ('rewarmed','rewarmed, new channels alone'): yield f'high rate, {name}', dict(grown, **OPTIONS[name])
    for init in ('half','variance'): yield f'high rate, {init}', dict(grown, init=init)

def option_runs(path, seed, base=BASE):
    "When the network grows, and what happens to rates, state and pictures"
    dense = dense_run(path, 'cycle', seed, base)
    if dense is None: return
    for name,change in OPTIONS.items(): yield name, dict(dense, **{**dict(plan=PLAN, init='orthogonal'), **change})
    yield 'smaller pictures, dense', dict(dense, sizes=SIZES)
    flat = dense_run(path, 'flat', seed, base)
    if flat is None: return
    yield 'flat, dense', flat
    for name,plan in (('flat',PLAN), ('flat, late doubling',LATE)): yield name, dict(flat, plan=plan, init='orthogonal')

# Families of a ResNet-20

FAMILY = dict(FAMILY, n_train=10_000, per=1, few=[2000,5000]) # few: pictures to choose and to report by
HARD = dict(target='hard')
RIVALS = {'full':{}, 'smallest':{}, 'delayed_shrinking':{}, 'bignas':{},
          'delayed_shrinking, hard labels':HARD, 'bignas, hard labels':HARD}
SEEDED = dict(core=.5, init='variance')
FORMS = { # what else the core, the skins and the family of `seeded_onion` may be
    '': {}, 'finish': dict(finish=.125), 'core .25': dict(core=.25), 'two a step': dict(k=2),
    'three a step': dict(k=3), 'two skins': dict(skins=2), 'late distillation': dict(distill=.25),
    'orthogonal': dict(init='orthogonal'), 'depth too': dict(dims=['width','depth'])}

def recipe_of(name): return 'seeded_onion' if name=='seeded_onion' else name.split(',')[0]

def family_run(name, **kw):
    "A configuration without a rate; the seeded onion has the epochs of the full network alone"
    if name!='seeded_onion': return shrink.new(recipe_of(name), FAMILY, **RIVALS[name], **kw)
    return {**FAMILY, **dict(recipe=name, search=False, epochs=shrink.EPOCHS['full'], options=SEEDED), **kw}

def family_rate(path, name):
    "Searched alike for all, for half of the epochs"
    epochs = shrink.SHORT['full' if name=='seeded_onion' else recipe_of(name)]
    return path, 'lr', family_run(name, search=True, epochs=epochs, seed=100), shrink.LRS

def family_search(path, names=('seeded_onion',*RIVALS)):
    for name in names: yield from rate_runs(*family_rate(path, name))

def form_name(form): return f'seeded onion, {form}' if form else 'seeded_onion'

def form_runs(path, seed, forms=FORMS):
    "`seeded_onion` in its forms, at the rate of the first"
    lr = search(*family_rate(path, 'seeded_onion'))[1]
    if lr is None: return
    for form in forms:
        yield form_name(form), dict(family_run('seeded_onion', seed=seed, options={**SEEDED, **FORMS[form]}), lr=lr)

def rival_runs(path, seed, names=RIVALS):
    for name in names:
        lr = search(*family_rate(path, name))[1]
        if lr is not None: yield name, dict(family_run(name, seed=seed), lr=lr)

# All of it

def configs(grown, families):
    "(kind, name, configuration), most important first, with rows in these files"
    def of(kind, runs): return ((kind, name, c) for name,c in runs)
    yield from of('small', growth_search(grown, 'cycle'))
    for s in SEEDS: yield from of('small', init_runs(grown, s))
    for s in FEW: yield from of('small', high_runs(grown, s))
    yield from of('small_family', family_search(families, ['seeded_onion','full','smallest']))
    for s in FEW: yield from of('small_family', form_runs(families, s))
    for s in FEW: yield from of('small_family', rival_runs(families, s, ['full','smallest']))
    yield from of('small_family', family_search(families))
    for s in FEW: yield from of('small_family', rival_runs(families, s))
    yield from of('small', growth_search(grown, 'flat'))
    for s in SOME: yield from of('small', option_runs(grown, s))
