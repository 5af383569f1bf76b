"""The design space of multi-network training on CIFAR-10, one field of the US-Net recipe at a time and at equal cost: every run is a row of results/onion.jsonl, and a restart skips it

python benchmarks/onion.py [--only lr cost screen alone confirm long] [--list]; what depends on missing rows comes with a later start
"""
import random, statistics as st, time
from dataclasses import fields, replace
from functools import partial
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from elastic_nets.zoo.data import MemoryData, SplitLoaders, cifar_dls
from elastic_nets.zoo.models import mobilenet_cifar, resnet_cifar, vgg_cifar
from elastic_nets.shrink.recipe import Construct, Recipe, inside_out, levels_of, outside_in
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import (
    bignas, delayed_shrinking, progressive_shrinking, slimmable, us_net, zero_last_bn
)
from elastic_nets.use.evaluate import evaluate_subnets, mean_pareto_accuracy
from elastic_nets.subnets.supernet import Supernet
from common import Lean, main, results, rows
from shrink import fresh

path, gpu = results/'onion.jsonl', torch.cuda.is_available()
NETS = dict(resnet=partial(resnet_cifar, 20), vgg=partial(vgg_cifar, 11, width=32 if gpu else 16), mobilenet=partial(mobilenet_cifar, width=.4 if gpu else .3)) # 41, 39 and 29 M MACs; on a CPU 41, 10 and 18
BASE = dict(net='resnet', recipe='us_net', n_train=45_000, steps=14_000, bs=64) if gpu else dict(net='resnet', recipe='us_net', n_train=10_000, steps=390, bs=64) # the base's steps: all else costs the same
SHARE = dict(resnet=1., vgg=1., mobilenet=1. if gpu else .5) # of these steps; depthwise layers are slow on a CPU
LRS, SCREEN, SEARCH, FRESH = (.003,.01,.03,.08,.2), (0,1), (100,101), (10,11,12,13,14,15) # learning rates; seeds that choose, on validation, values and learning rates; seeds that report, on test
LONG = 4 # times the steps, on the network that trains fastest: what of it holds for longer runs?
WIDTHS, FOUR = tuple(i/8 for i in range(2,9)), (.25,.5,.75,1.)
base = us_net(levels=7)
on = lambda field, **new: replace(base, **{field: replace(getattr(base, field), **new)})

RECIPES = { # name -> recipe: the base with one field changed
    'us_net': base,
    'construct: no sandwich': on('construct', smallest=False), 'construct: four widths': on('construct', levels=4), 'construct: four, spaced in MACs': on('construct', levels=4, spacing='macs'),
    'construct: each layer its width': on('construct', levels=0), 'construct: depth skins': on('construct', dims=('depth',), levels=4),
    'construct: private BN': on('construct', levels=4, bn='private'), 'construct: private statistics': on('construct', levels=4, bn='statistics'),
    'gradient: hard labels': on('gradient', target='hard'), 'gradient: next larger': on('gradient', target='next'),
    **{f'gradient: {r}': on('gradient', combine=r) for r in ('avg','project','core','skins')},
    'update: small first': on('update', steps='small first'), 'update: large first': on('update', steps='large first'),
    'update: own momentum': on('update', steps='large first', momentum='own'), 'update: rate per skin': on('update', skin_lr=True),
    'schedule: epsilon for 20 %': on('schedule', ramp=.2), 'schedule: delayed 50 %': on('schedule', warmup=.5, ramp=.02),
    'schedule: delayed 50 %, sorted once': replace(on('schedule', warmup=.5, ramp=.02), construct=replace(base.construct, sort='once')),
    'schedule: inside out': replace(base, schedule=inside_out(4)), 'schedule: outside in': replace(base, schedule=outside_in(4)),
    'schedule: outside in, sorted at phases': replace(base, schedule=outside_in(4), construct=replace(base.construct, sort='phases')),
    'schedule: by importance': on('construct', levels=0, sample='importance'), 'schedule: annealed to .1': on('schedule', end=.1),
}
PARENT = { # a value that needs a second change to mean anything -> the recipe that has that change
    'construct: four, spaced in MACs': 'construct: four widths', 'construct: private BN': 'construct: four widths', 'construct: private statistics': 'construct: four widths', 'update: own momentum': 'update: large first',
    'schedule: delayed 50 %, sorted once': 'schedule: delayed 50 %', 'schedule: outside in, sorted at phases': 'schedule: outside in', 'schedule: by importance': 'construct: each layer its width',
}
def widths_only(rec): return replace(rec, construct=replace(rec.construct, dims=('width',)))
PUBLISHED = dict(slimmable=slimmable(), us_net=base, bignas=widths_only(bignas()), progressive_shrinking=widths_only(progressive_shrinking(matrices=False)), delayed_shrinking=widths_only(delayed_shrinking())) # CompOFA ties widths to depths: in shrink.py

def combine(names):
    "The base with what several recipes change; `ValueError` where two of them change the same"
    kw, seen = {}, set()
    for n in names:
        for f in fields(Recipe):
            old, new = getattr(base, f.name), getattr(RECIPES[n], f.name)
            if new==old: continue
            mine = {a.name:getattr(new, a.name) for a in fields(new)} if type(new) is not type(old) else {a.name:getattr(new, a.name) for a in fields(new) if getattr(new, a.name)!=getattr(old, a.name)}
            if f.name in kw and (type(new) is not type(kw[f.name]) or any((f.name,a) in seen for a in mine)): raise ValueError(f'{names}: {f.name} is changed twice')
            kw[f.name] = replace(kw.get(f.name, old), **mine) if type(new) is type(old) else new
            seen |= {(f.name,a) for a in mine}
    return replace(base, **kw)

def recipe_of(name): return PUBLISHED[name] if name in PUBLISHED else combine(name.split(' + '))

def network(c):
    "The full network of configuration `c`, or one of its widths by itself, with weights drawn for its size"
    model = NETS[c['net']]()
    if c['recipe']!='alone': return model
    sn = Supernet(model, torch.randn(2,3,32,32), widths=WIDTHS)
    return fresh(sn.extract(sn.space.uniform(c['width'])))

def in_bf16(model):
    "Every forward of `model` and of its copies in bfloat16; so recipes with several optimizer steps per batch, which fastai's mixed precision cannot do, cost what they should"
    on = []
    def enter(m, x): on.append(torch.autocast('cuda' if gpu else 'cpu', torch.bfloat16)); on[-1].__enter__()
    def leave(m, x, out): on.pop().__exit__(None, None, None); return out.float()
    model.register_forward_pre_hook(enter); model.register_forward_hook(leave)

def learner(c):
    "A learner for configuration `c`: network, data and their order follow its seed. Its one epoch has `steps` steps"
    random.seed(c['seed']); np.random.seed(c['seed']); torch.manual_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cuda' if gpu else 'cpu')
    ds, n = dls.train.dataset, c['steps']*c['bs']
    idx = torch.cat([torch.randperm(len(ds)) for _ in range(-(-n//len(ds)))])[:n]
    dls = SplitLoaders(dls.train.new(MemoryData(ds.x[idx], ds.y[idx], ds.vocab, split_idx=0), shuffle=False), dls.valid, dls.test)
    learn = Learner(dls, network(c), metrics=accuracy, opt_func=partial(SGD, mom=.9), wd=5e-4, moms=(.9,)*3, cbs=[ChannelsLast(), Lean()])
    if c['recipe']!='alone':
        depth = 'depth' in recipe_of(c['recipe']).construct.dims and c['net']=='resnet'
        learn.to_supernet(widths=WIDTHS, depths=(0,.5,1) if depth else None)
        if c['recipe']=='bignas': zero_last_bn(learn.supernet)
    if gpu or c['net']!='mobilenet': in_bf16(learn.model) # depthwise layers are slower in bf16 on a CPU
    return learn

def now():
    if gpu: torch.cuda.synchronize()
    return time.perf_counter() if gpu else time.process_time()

class Clock(Callback):
    "Seconds from the first batch to the end of the last"
    order,run_valid = -1000,False
    def before_fit(self): self.begin = None
    def before_batch(self):
        if self.begin is None: self.begin = now()
    def after_train(self): self.seconds = now()-self.begin

def fit(learn, c):
    "Seconds of the steps"
    clock = Clock()
    cbs = [] if c['recipe']=='alone' else [OnionTraining(recipe_of(c['recipe']), seed=c['seed'], watch=(), estimate=False)]
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, c['lr'], pct_start=.1, cbs=[*cbs, clock])
    return clock.seconds

def train(c):
    "One run: accuracy of the four widths and mean Pareto accuracy, on validation and, with a fresh seed, on test; and the seconds of its steps"
    if c.get('cost'): return cost(c)
    learn = learner(c)
    row = dict(seconds=round(fit(learn, c), 1))
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, Lean)])
    dls = dict(valid=learn.dls.valid, **(dict(test=learn.dls.test) if c['seed'] in FRESH else {}))
    with learn.no_bar(): return dict(row, **(score(learn, dls) if c['recipe']!='alone' else {k:dict(widths={str(c['width']): round(100*learn.validate(dl=dl)[1],2)}) for k,dl in dls.items()}))

def score(learn, dls):
    "Accuracy of the four slimmable widths, and mean Pareto accuracy over all seven (and levels of depth), which validation chooses"
    sn = learn.supernet
    nets = {w:sn.space.uniform(w) for w in WIDTHS}
    extra = [s for k in (('depth',), ('width','depth')) for s in levels_of(Construct(levels=7, dims=k), sn.space)] if sn.space.depth else []
    tables, res = {}, {}
    for k,dl in dls.items():
        tables[k] = t = evaluate_subnets(learn, [*dict.fromkeys([*nets.values(), *extra])], dl=dl.new(bs=256), calibrate=1000)
        t['valid'], acc = tables['valid'].accuracy, dict(zip(t.subnet, t.accuracy))
        res[k] = dict(widths={str(w): round(100*acc[nets[w]],2) for w in FOUR}, mean_pareto=round(100*mean_pareto_accuracy(t, sn.macs(nets[.25]), sn.macs(nets[1.]), metric='accuracy', by='valid'), 3))
    return res

def cost(c, rounds=3):
    "Seconds of 16 steps over those of the base recipe, in turn; median. For 'alone': of the four widths together"
    def seconds(r, **kw):
        k = dict(c, recipe=r, steps=16, seed=0, lr=.01, **kw)
        return fit(learner(k), k)
    return dict(ratio=round(st.median((sum(seconds('alone', width=w) for w in FOUR) if c['recipe']=='alone' else seconds(c['recipe']))/seconds('us_net') for _ in range(rounds)), 3))

def ratio(net, recipe):
    "Measured cost of a step over one of the base; None where it was not measured yet"
    return 1. if recipe=='us_net' else next((r['ratio'] for r in rows(path) if r['name']=='cost' and (r['config']['net'],r['config']['recipe'])==(net,recipe)), None)

def run_of(name, net, recipe, seed, lr, share=1., **kw):
    "Name and configuration with the steps that cost `share` of what the base's cost; nothing where rate or cost are not known yet"
    y = ratio(net, recipe)
    if y is not None and lr is not None: yield name, dict(BASE, net=net, recipe=recipe, seed=seed, lr=lr, steps=round(BASE['steps']*SHARE[net]*share/y), **kw)

def by_rate(name, recipe, seed, width=None, net='resnet'):
    "Learning rate -> what it gave on validation"
    def value(r): return r['valid']['mean_pareto'] if width is None else r['valid']['widths'][str(width)]
    return {r['config']['lr']:value(r) for r in rows(path) if r['name']==name and tuple(r['config'].get(k) for k in ('net','recipe','seed','width'))==(net,recipe,seed,width)}

def two_rates():
    "The base's two best learning rates, best first; none before all were run"
    got = by_rate('screen', 'us_net', SCREEN[0])
    return sorted(got, key=got.get, reverse=True)[:2] if len(got)==len(LRS) else []

def around(got):
    "Learning rates that a search tries: the base's two, and then the neighbours of the best, until it lies between worse ones"
    two = two_rates()
    if not two or not {*two}<={*got}: return two
    i = LRS.index(max(got, key=got.get))
    return [*dict.fromkeys([*two, *got, *LRS[max(i-1, 0):i+2]])]

def due(name, recipe, seeds, width=None):
    "Learning rates and seeds of a search: with the first seed until the best lies between worse ones, then the two best with the second"
    got = by_rate(name, recipe, seeds[0], width)
    rates = around(got)
    return [(lr,seeds[0]) for lr in rates]+([(lr,seeds[1]) for lr in sorted(got, key=got.get)[-2:]] if rates and {*rates}<={*got} else [])

def on_vgg(recipe, width=None):
    "Learning rate -> what it gave on validation on VGG, with the first seed of those that report"
    return by_rate('alone' if width else 'confirm', recipe, FRESH[0], width, 'vgg')

def best_lr(recipe, width=None, net='resnet'):
    "The learning rate of a recipe, by validation: what its search ended with, or the base's; None before all is there. MobileNet has none of its own, and takes the lower of the others'"
    if net=='mobilenet':
        both = [best_lr(recipe, width, n) for n in ('resnet','vgg')]
        return None if None in both else min(both)
    if net=='vgg':
        got = on_vgg(recipe, width)
        return max(got, key=got.get) if got and {*around(got)}<={*got} else None
    if recipe not in (*PUBLISHED, 'alone', select()[1]): return next(iter(two_rates()), None)
    name, seeds = ('lr',SEARCH) if recipe in ('alone', *PUBLISHED) and recipe!='us_net' else ('screen',SCREEN)
    first, second = (by_rate(name, recipe, s, width) for s in seeds)
    pairs = due(name, recipe, seeds, width)
    if not pairs or not all(lr in (first if s==seeds[0] else second) for lr,s in pairs): return None
    return max((lr for lr,s in pairs if s==seeds[1]), key=lambda lr: first[lr]+second[lr])

def gain(recipe, seed=SCREEN[0]):
    "Mean Pareto accuracy on validation over the base's, each at the best rate that it was run with; None before both are there"
    got, than = (by_rate('screen', r, seed) for r in (recipe, 'us_net'))
    return max(got.values())-max(than.values()) if got and than else None

def select(n=2):
    "Forward selection: the best value of all, then field by field the better of its `n` best (of those that suit all networks) together with what was chosen, where that gains. -> recipes in the order of trial, and the last one chosen (None while rows are missing)"
    got = {r:gain(r) for r in RECIPES}
    if not two_rates() or None in got.values(): return [], None
    fields_ = [sorted((r for r in RECIPES if r.startswith(f'{f}:') and got[r]>0 and all(suits(r, n) for n in NETS)), key=got.get, reverse=True)[:n] for f in ('construct','gradient','update','schedule')]
    tried, best = [], 'us_net'
    for field in sorted(filter(None, fields_), key=lambda o: -got[o[0]]):
        names = [r for r in ([v for v in field if best=='us_net'] or [f'{best} + {v}' for v in field]) if may(r)]
        tried += names
        if None in [gain(r) for r in names]: return tried, None
        best = max([best, *names], key=lambda r: gain(r) or 0.)
    return tried, best

def may(recipe):
    "Can what these recipes change go together?"
    try: return bool(recipe_of(recipe))
    except (ValueError, TypeError): return False

def finalists():
    "Who is worth a second seed: the base, the best value of all, and what the selection ends with"
    tried, best = select()
    return [*dict.fromkeys(['us_net', *tried[:1], best])] if best else []

def handful():
    "The finalists that gained on validation over both seeds, best first; none where none gained, or rows are missing"
    got = {r:[gain(r,s) for s in SCREEN] for r in finalists() if r!='us_net'}
    return [] if any(None in g for g in got.values()) else sorted((r for r,g in got.items() if st.mean(g)>0), key=lambda r: -st.mean(got[r]))

def suits(recipe, net): return net=='resnet' or recipe_of(recipe).construct.dims!=('depth',) # the others have no depth to choose

def configs(seeds):
    "Name -> configurations, in the order in which they are run"
    yield from screened('us_net', SCREEN[0], LRS)
    yield from costs('resnet', RECIPES)
    for r in RECIPES: yield from screened(r, SCREEN[0], two_rates()[:1])
    for r in select()[0]:
        yield from costs('resnet', [r] if r not in RECIPES else [])
        yield from screened(r, SCREEN[0], two_rates()[:1])
    for r in finalists():
        for lr,s in due('screen', r, SCREEN) if r in ('us_net', select()[1]) else [(best_lr(r),SCREEN[1])]: yield from screened(r, s, [lr])
    best = (*PUBLISHED, *handful()[:1])
    yield from confirmed(best, NETS, FRESH[:3])
    yield from confirmed(best, ['vgg'], FRESH[3:])
    yield from confirmed(best, ['vgg'], FRESH[:1], LONG)
    yield from confirmed(best, ['resnet'], FRESH[3:])
    yield from confirmed(best, ['vgg'], FRESH[1:3], LONG)
    yield from confirmed(handful()[1:], NETS, FRESH[:3])

def confirmed(some, nets, seeds, times=1):
    "Configurations of recipes `some` and of each width alone with fresh `seeds`, and of the costs and rates that they need; named 'long' where `times` the base's steps are run"
    named = lambda name: 'long' if times>1 else name
    for net in nets:
        rs = [r for r in some if suits(r, net)]
        yield from costs(net, ['alone', *rs])
        if net=='resnet':
            for r in PUBLISHED: yield from searched(r) if r!='us_net' else ()
            for w in FOUR: yield from searched('alone', width=w)
        for s in seeds:
            for r,w in [*[('alone', w) for w in FOUR], *[(r, None) for r in rs]]:
                search = net=='vgg' and s==FRESH[0] and times==1
                for lr in around(on_vgg(r, w)) if search else [best_lr(r, w, net)]: yield from run_of(named('alone' if w else 'confirm'), net, r, s, lr, times, **(dict(width=w) if w else {}))

def costs(net, names): return (('cost', dict(BASE, net=net, recipe=r, cost=True)) for r in names if r!='us_net')
def searched(recipe, **kw): return (o for lr,s in due('lr', recipe, SEARCH, **kw) for o in run_of('lr', 'resnet', recipe, s, lr, .5, **kw))
def screened(recipe, seed, rates): return (o for lr in rates for o in run_of('screen', 'resnet', recipe, seed, lr))

if __name__=='__main__': main(__doc__, path, configs, train)
