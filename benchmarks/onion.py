"""The design space of multi-network training on CIFAR-10, one field of the US-Net recipe at a time and at equal cost: every run is a row of results/onion.jsonl, and a restart skips it

python benchmarks/onion.py [--only lr alone cost screen confirm ...] [--seeds 0 1] [--list]
"""
import random, statistics as st, time
from dataclasses import fields, replace
from functools import partial
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from elastic_nets.data import cifar_dls
from elastic_nets.models import mobilenet_cifar, resnet_cifar, vgg_cifar
from elastic_nets.onion import Construct, OnionTraining, Recipe, inside_out, levels_of, outside_in
from elastic_nets.recipes import bignas, delayed_shrinking, slimmable, us_net, zero_last_bn
from elastic_nets.search import evaluate_subnets, mean_pareto_accuracy
from elastic_nets.supernet import Supernet
from common import CPUMixed, Lean, main, results, rows
from shrink import fresh

path = results/'onion.jsonl'
NETS = dict(resnet=partial(resnet_cifar, 20), vgg=partial(vgg_cifar, 11, width=32), mobilenet=partial(mobilenet_cifar, width=.4)) # 41, 39 and 29 M MACs
BASE = dict(net='resnet', recipe='us_net', n_train=10_000, epochs=4, lr=.08, bs=64)
LRS = (.03,.08,.2)
SCREEN, FRESH = (0,1), (10,11,12) # seeds that choose, on validation; seeds that report, on test
WIDTHS = tuple(i/16 for i in range(4,17))
base = us_net(levels=13)
on = lambda field, **new: replace(base, **{field: replace(getattr(base, field), **new)})

RECIPES = { # name -> recipe: the base with one field changed; a few need a second change to mean anything
    'us_net': base,
    'construct: k=2': on('construct', k=2, smallest=False), 'construct: k=3': on('construct', k=3), 'construct: no sandwich': on('construct', smallest=False),
    'construct: four widths': on('construct', levels=4), 'construct: spaced in MACs': on('construct', spacing='macs'), 'construct: each layer its width': on('construct', levels=0),
    'construct: depth skins': on('construct', kinds=('depth',), levels=4), 'construct: width and depth': on('construct', kinds=('width','depth'), levels=0),
    'construct: private BN': on('construct', levels=4, bn='private'), 'construct: private statistics': on('construct', levels=4, bn='statistics'),
    'gradient: hard labels': on('gradient', target='hard'), 'gradient: next larger': on('gradient', target='next'),
    **{f'gradient: {r}': on('gradient', combine=r) for r in ('avg','avg_sqrt','project','core','skins')},
    'gradient: epsilon for 20 %': on('schedule', ramp=.2),
    'update: small first': on('update', steps='small first'), 'update: large first': on('update', steps='large first'),
    'update: own momentum': on('update', steps='large first', momentum='own'), 'update: rate per skin': on('update', skin_lr=True),
    'schedule: delayed 25 %': on('schedule', warmup=.25, ramp=.02), 'schedule: delayed 50 %': on('schedule', warmup=.5, ramp=.02),
    'schedule: delayed 50 %, sorted once': replace(on('schedule', warmup=.5, ramp=.02), construct=replace(base.construct, sort='once')),
    'schedule: inside out': replace(base, schedule=inside_out(4)), 'schedule: outside in': replace(base, schedule=outside_in(4)),
    'schedule: outside in, sorted at phases': replace(base, schedule=outside_in(4), construct=replace(base.construct, sort='phases')),
    'schedule: by importance': on('construct', levels=0, sample='importance'), 'schedule: annealed to .1': on('schedule', end=.1),
}
PUBLISHED = dict(slimmable=slimmable(), us_net=base, bignas=bignas(), delayed_shrinking=delayed_shrinking()) # once-for-all and CompOFA are in shrink.py: they need a teacher's training

def combine(names):
    "The base with what several recipes change; the last one wins where two change the same"
    kw = {}
    for n in names:
        for f in fields(Recipe):
            old, new = getattr(base, f.name), getattr(RECIPES[n], f.name)
            if new==old: continue
            now = kw.get(f.name, old)
            kw[f.name] = replace(now, **{a.name:getattr(new, a.name) for a in fields(new) if getattr(new, a.name)!=getattr(old, a.name)}) if type(new) is type(now) else new
    return replace(base, **kw)

def recipe_of(name): return PUBLISHED[name] if name in PUBLISHED else combine(name.split(' + '))

def network(c):
    "The full network of configuration `c`, or one of its widths by itself, with weights drawn for its size"
    model = NETS[c['net']]()
    if c['recipe']!='alone': return model
    sn = Supernet(model, torch.randn(2,3,32,32), widths=WIDTHS)
    return fresh(sn.extract(sn.space.uniform(c['width'])))

def learner(c):
    "A learner for configuration `c`: network, data and their order follow its seed"
    random.seed(c['seed']); np.random.seed(c['seed']); torch.manual_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cuda' if torch.cuda.is_available() else 'cpu')
    learn = Learner(dls, network(c), metrics=accuracy, opt_func=partial(SGD, mom=.9), wd=5e-4, moms=(.9,)*3, cbs=[CPUMixed(), ChannelsLast(), Lean()])
    if c['recipe']=='alone': return learn
    if recipe_of(c['recipe']).update.steps!='joint': learn.remove_cb(CPUMixed) # several steps per batch: full precision
    depth = 'depth' in recipe_of(c['recipe']).construct.kinds and c['net']=='resnet'
    learn.to_supernet(widths=WIDTHS, depths=(0,.5,1) if depth else None)
    if c['recipe']=='bignas': zero_last_bn(learn.supernet)
    return learn

def callbacks(c): return [] if c['recipe']=='alone' else [OnionTraining(recipe_of(c['recipe']), seed=c['seed'], watch=(), estimate=False)]

def train(c):
    "One run: accuracy of the four widths and mean Pareto accuracy, on validation and test, and what the fit took"
    if c.get('cost'): return cost(c)
    learn = learner(c)
    t,cpu = time.perf_counter(), time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'], cbs=callbacks(c))
    row = dict(seconds=round(time.perf_counter()-t,1), cpu_seconds=round(time.process_time()-cpu,1), steps=c['epochs']*len(learn.dls.train))
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, (Lean, CPUMixed))])
    dls = dict(valid=learn.dls.valid, **(dict(test=learn.dls.test) if c['seed'] in FRESH else {}))
    with learn.no_bar(): return dict(row, **(score(learn, dls) if c['recipe']!='alone' else {k:dict(widths={str(c['width']): round(100*learn.validate(dl=dl)[1],2)}) for k,dl in dls.items()}))

def score(learn, dls):
    "Accuracy of the four slimmable widths, and mean Pareto accuracy over levels of all widths (and depths), which validation chooses"
    sn = learn.supernet
    four = {w:sn.space.uniform(w) for w in (.25,.5,.75,1.)}
    space = sn.space if sn.space.depth else sn.space.part()
    extra = [s for k in (('width',), ('depth',), ('width','depth')) for s in levels_of(Construct(levels=7, kinds=k), space.part(**{q:-1 for q in ('width','depth') if q not in k})) if sn.space.depth or k==('width',)]
    tables, res, lo, hi = {}, {}, sn.macs(four[.25]), sn.macs(four[1.])
    for k,dl in dls.items():
        tables[k] = t = evaluate_subnets(learn, [*four.values(), *extra], dl=dl, calibrate=1000)
        t['valid'], acc = tables['valid'].accuracy, dict(zip(t.subnet, t.accuracy))
        res[k] = dict(widths={str(w): round(100*acc[s],2) for w,s in four.items()}, mean_pareto=round(100*mean_pareto_accuracy(t, lo, hi, metric='accuracy', by='valid'), 3))
    return res

def cost(c):
    "Seconds of 24 steps over those of the base recipe, in turn, twice"
    both = {}
    for _ in range(2):
        for r in (c['recipe'], 'us_net'):
            learn = learner(dict(c, recipe=r, n_train=24*c['bs'], seed=0))
            t = time.process_time()
            with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, .01, cbs=callbacks(dict(c, recipe=r)))
            both.setdefault(r, []).append(time.process_time()-t)
    return dict(ratio=round(st.median(a/b for a,b in zip(*both.values())), 3) if len(both)>1 else 1.)

def ratio(net, recipe):
    "Measured cost of a step over one of the base; None where it was not measured yet"
    return next((r['ratio'] for r in rows(path) if r['config'].get('cost') and r['config']['net']==net and r['config']['recipe']==recipe), None)

def run_of(net, recipe, seed, lr):
    "A configuration with the epochs that cost what the base costs"
    y = 1. if recipe in ('us_net','alone') else ratio(net, recipe)
    return None if y is None else dict(BASE, net=net, recipe=recipe, seed=seed, lr=lr, epochs=max(1, round(BASE['epochs']/y)))

def best_lr(net):
    "The base's learning rate, chosen on validation"
    got = {r['config']['lr']:r['valid']['mean_pareto'] for r in rows(path) if r['name']=='lr' and r['config']['net']==net}
    return max(got, key=got.get) if {*LRS}<={*got} else None

def gains(seeds):
    "Recipe -> its gain over the base on validation, mean over `seeds`; those that were run with all of them, best first"
    got = {(r['config']['recipe'], r['config']['seed']):r['valid']['mean_pareto'] for r in rows(path) if r['name']=='screen'}
    mean = {n: st.mean(got[n,s]-got['us_net',s] for s in seeds) for n in {n for n,_ in got} if all((n,s) in got and ('us_net',s) in got for s in seeds)}
    return dict(sorted(mean.items(), key=lambda o: -o[1]))

def second(n=8):
    "Who is worth a second seed: the best after the first, when all have that"
    got = gains(SCREEN[:1])
    return ['us_net', *[r for r in got if r!='us_net'][:n]] if {*RECIPES}<={*got} else []

def together():
    "The best value of each field that gained, in one recipe; one that cannot be combined with better ones is left out"
    got, names = gains(SCREEN), []
    if not {*second()}<={*got} or not second(): return None
    best = [next((n for n,g in got.items() if n.startswith(f'{field}:') and ' + ' not in n and g>0), None) for field in ('construct','gradient','update','schedule')]
    for n in sorted(filter(None, best), key=got.get, reverse=True):
        try: combine([n, *names]) # of two that change the same, the better is the last
        except (ValueError, TypeError): continue
        names = [n, *names]
    return ' + '.join(names) if len(names)>1 else None

def handful(n=3):
    "The recipes that are best on validation after both seeds, the combined one among them; the base aside"
    got, best = gains(SCREEN), together()
    return [r for r in got if r!='us_net'][:n] if second() and {*second(), *([best] if best else [])}<={*got} else []

def configs(seeds):
    "Name -> configurations, in the order in which they are run; what depends on missing rows comes with a later start"
    for net in NETS:
        for lr in LRS: yield 'lr', dict(BASE, net=net, recipe='us_net', epochs=2, seed=100, lr=lr)
    for r in (*RECIPES, together()):
        if r not in ('us_net', None): yield 'cost', dict(BASE, net='resnet', recipe=r, cost=True)
    if (lr := best_lr('resnet')) is not None:
        for s,names in ((SCREEN[0],[*RECIPES]), (SCREEN[1],second()), *((s,[together()]) for s in SCREEN)):
            for r in names:
                if r and (c := run_of('resnet', r, s, lr)) is not None: yield 'screen', c
    for net in NETS:
        if (lr := best_lr(net)) is None: continue
        names = sorted(r for r in {*handful(), *PUBLISHED} if net=='resnet' or recipe_of(r).construct.kinds!=('depth',)) # the others have no depth to choose
        for r in names:
            if r!='us_net': yield 'cost', dict(BASE, net=net, recipe=r, cost=True)
        for s in FRESH:
            for w in (.25,.5,.75,1.): yield 'alone', dict(run_of(net, 'alone', s, lr), width=w)
            for r in names:
                if (c := run_of(net, r, s, lr)) is not None: yield 'confirm', c

if __name__=='__main__': main(__doc__, path, configs, train)
