"""The design space of multi-network training on CIFAR-10, one field of the US-Net recipe at a time and at equal cost

Every run is a row of results/onion.jsonl, and a restart skips it; what depends on missing rows comes later.

python benchmarks/onion.py [--only lr cost screen alone confirm long] [--list]
"""
import statistics, time
from dataclasses import fields, replace
from functools import partial
import torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from elastic_nets.zoo.data import MemoryData, SplitLoaders, cifar_dls
from elastic_nets.zoo.models import mobilenet_cifar, resnet_cifar, vgg_cifar
from elastic_nets.shrink.choices import (
    Annealed, ByImportance, OwnMomentum, RatePerSkin, combine_avg, combine_core, combine_project, combine_skins,
    equal_macs
)
from elastic_nets.shrink.recipe import Construct, Recipe, inside_out, levels_of, outside_in
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import (
    bignas, delayed_shrinking, progressive_shrinking, slimmable, us_net, zero_last_bn
)
from elastic_nets.use.evaluate import evaluate_subnets, mean_pareto_accuracy
from elastic_nets.subnets.supernet import Supernet
from common import Job, Lean, main, results, rows, set_seed, wall_clock
from shrink import fresh

path = results/'onion.jsonl'
gpu = __name__=='__main__' and torch.cuda.is_available() # who imports this reads a processor's rows, on any machine

NETS = dict( # on a GPU 41, 39 and 29 M MACs; on a CPU 41, 10 and 18
    resnet=partial(resnet_cifar, 20),
    vgg=partial(vgg_cifar, 11, width=32 if gpu else 16),
    mobilenet=partial(mobilenet_cifar, width=.4 if gpu else .3),
)
# `steps` are the base's: all else costs the same
BASE = dict(net='resnet', recipe='us_net', n_train=45_000 if gpu else 10_000, steps=14_000 if gpu else 390, bs=64)
SHARE = dict(resnet=1., vgg=1., mobilenet=1. if gpu else .5) # of these steps; depthwise layers are slow on a CPU
LRS = (.003,.01,.03,.08,.2)
SCREEN, SEARCH = (0,1), (100,101) # seeds that choose, on validation, values and learning rates
FRESH = (10,11,12,13,14,15) # seeds that report, on test
LONG = 4 # times the steps, on the network that trains fastest: what of it holds for longer runs?
WIDTHS, FOUR = tuple(i/8 for i in range(2,9)), (.25,.5,.75,1.)

# Recipes

base = us_net(levels=7)
def on(field, **new): return replace(base, **{field: replace(getattr(base, field), **new)})
def sorting(when, recipe): return replace(recipe, construct=replace(recipe.construct, sort=when))

RECIPES = { # name -> recipe: the base with one field changed
    'us_net': base,
    'construct: no sandwich': on('construct', smallest=False),
    'construct: four widths': on('construct', levels=4),
    'construct: four, spaced in MACs': on('construct', levels=4, spacing=equal_macs),
    'construct: each layer its width': on('construct', levels=0),
    'construct: depth skins': on('construct', dims=('depth',), levels=4),
    'construct: private BN': on('construct', levels=4, bn='private'),
    'construct: private statistics': on('construct', levels=4, bn='statistics'),
    'gradient: hard labels': on('gradient', target='hard'),
    'gradient: next larger': on('gradient', target='next'),
    'gradient: avg': on('gradient', combine=combine_avg),
    'gradient: project': on('gradient', combine=combine_project),
    'gradient: core': on('gradient', combine=combine_core),
    'gradient: skins': on('gradient', combine=combine_skins),
    'update: small first': on('update', steps='small first'),
    'update: large first': on('update', steps='large first'),
    'update: own momentum': on('update', steps='large first', rule=OwnMomentum),
    'update: rate per skin': on('update', rule=RatePerSkin),
    'schedule: epsilon for 20 %': on('schedule', ramp=.2),
    'schedule: delayed 50 %': on('schedule', warmup=.5, ramp=.02),
    'schedule: delayed 50 %, sorted once': sorting('once', on('schedule', warmup=.5, ramp=.02)),
    'schedule: inside out': replace(base, schedule=inside_out(4)),
    'schedule: outside in': replace(base, schedule=outside_in(4)),
    'schedule: outside in, sorted at phases': sorting('phases', replace(base, schedule=outside_in(4))),
    'schedule: by importance': on('construct', levels=0, odds=ByImportance),
    'schedule: annealed to .1': replace(base, schedule=Annealed(0., 0., end=.1)),
}
PARENT = { # a value that needs a second change to mean anything -> the recipe that has that change
    'construct: four, spaced in MACs': 'construct: four widths',
    'construct: private BN': 'construct: four widths',
    'construct: private statistics': 'construct: four widths',
    'update: own momentum': 'update: large first',
    'schedule: delayed 50 %, sorted once': 'schedule: delayed 50 %',
    'schedule: outside in, sorted at phases': 'schedule: outside in',
    'schedule: by importance': 'construct: each layer its width',
}

def widths_only(recipe): return replace(recipe, construct=replace(recipe.construct, dims=('width',)))

PUBLISHED = dict( # CompOFA ties widths to depths: in shrink.py
    slimmable=slimmable(),
    us_net=base,
    bignas=widths_only(bignas()),
    progressive_shrinking=widths_only(progressive_shrinking(matrices=False)),
    delayed_shrinking=widths_only(delayed_shrinking()),
)

def values_of(part): return {f.name:getattr(part, f.name) for f in fields(part)}

def changes(old, new):
    "What `new`, a field of a recipe, has other than `old`; all of it where it is of another class"
    if type(new) is not type(old): return values_of(new)
    return {k:v for k,v in values_of(new).items() if v!=getattr(old, k)}

def combine(names):
    "The base with what several recipes change; `ValueError` where two of them change the same"
    parts, seen = {}, set()
    for name in names:
        for part in [f.name for f in fields(Recipe)]:
            old, new = getattr(base, part), getattr(RECIPES[name], part)
            if new==old: continue
            mine = changes(old, new)
            other_class = part in parts and type(new) is not type(parts[part])
            if other_class or any((part,k) in seen for k in mine): raise ValueError(f'{names}: {part} is changed twice')
            parts[part] = replace(parts.get(part, old), **mine) if type(new) is type(old) else new
            seen |= {(part,k) for k in mine}
    return replace(base, **parts)

def recipe_of(name): return PUBLISHED[name] if name in PUBLISHED else combine(name.split(' + '))

def may(recipe):
    "Can what these recipes change go together?"
    try: return bool(recipe_of(recipe))
    except (ValueError, TypeError): return False

def suits(recipe, net): return net=='resnet' or recipe_of(recipe).construct.dims!=('depth',) # the others have no depth

# Training

def network(c):
    "The full network of configuration `c`, or one of its widths by itself, with weights drawn for its size"
    model = NETS[c['net']]()
    if c['recipe']!='alone': return model
    sn = Supernet(model, torch.randn(2,3,32,32), widths=WIDTHS)
    return fresh(sn.extract(sn.space.uniform(c['width'])))

def in_bf16(model):
    """Every forward of `model` and of its copies in bfloat16; so recipes with several optimizer steps per batch,
    which fastai's mixed precision cannot do, cost what they should"""
    entered = []
    def enter(m, x):
        entered.append(torch.autocast('cuda' if gpu else 'cpu', torch.bfloat16))
        entered[-1].__enter__()
    def leave(m, x, out):
        entered.pop().__exit__(None, None, None)
        return out.float()
    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave)

def loaders(c):
    "Data whose one epoch has `steps` steps, in the order that the seed gives"
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cuda' if gpu else 'cpu')
    data, n = dls.train.dataset, c['steps']*c['bs']
    epochs = -(-n//len(data))
    idx = torch.cat([torch.randperm(len(data)) for _ in range(epochs)])[:n]
    ordered = MemoryData(data.x[idx], data.y[idx], data.vocab, split_idx=0)
    return SplitLoaders(dls.train.new(ordered, shuffle=False), dls.valid, dls.test)

def learner(c):
    "A learner for configuration `c`: network, data and their order follow its seed"
    set_seed(c['seed'])
    dls = loaders(c)
    learn = Learner(dls, network(c), metrics=accuracy, opt_func=partial(SGD, mom=.9), wd=5e-4, moms=(.9,)*3,
                    cbs=[ChannelsLast(), Lean()])
    if c['recipe']!='alone':
        depth = 'depth' in recipe_of(c['recipe']).construct.dims and c['net']=='resnet'
        learn.to_supernet(widths=WIDTHS, depths=(0,.5,1) if depth else None)
        if c['recipe']=='bignas': zero_last_bn(learn.supernet)
    if gpu or c['net']!='mobilenet': in_bf16(learn.model) # depthwise layers are slower in bf16 on a CPU
    return learn

def now(): return wall_clock() if gpu else time.process_time()

class Clock(Callback):
    "Seconds from the first batch to the end of the last"
    order,run_valid = -1000,False
    def before_fit(self): self.begin = None
    def before_batch(self):
        if self.begin is None: self.begin = now()
    def after_train(self): self.seconds = now()-self.begin

def fit(learn, c):
    "Seconds of the steps"
    cbs, clock = [], Clock()
    if c['recipe']!='alone': cbs = [OnionTraining(recipe_of(c['recipe']), seed=c['seed'], watch=(), estimate=False)]
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, c['lr'], pct_start=.1, cbs=[*cbs, clock])
    return clock.seconds

def train(c):
    """One run: accuracy of the four widths and mean Pareto accuracy, on validation and, with a fresh seed, on test;
    and the seconds of its steps"""
    if c.get('cost'): return cost(c)
    learn = learner(c)
    row = dict(seconds=round(fit(learn, c), 1))
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, Lean)])
    dls = dict(valid=learn.dls.valid)
    if c['seed'] in FRESH: dls['test'] = learn.dls.test
    with learn.no_bar(): return dict(row, **(score(learn, dls) if c['recipe']!='alone' else score_alone(learn, dls, c)))

def percent(v, digits=2): return round(100*v, digits)

def score_alone(learn, dls, c):
    "Accuracy of one width by itself"
    return {k:dict(widths={str(c['width']): percent(learn.validate(dl=dl)[1])}) for k,dl in dls.items()}

def score(learn, dls):
    """Accuracy of the four slimmable widths, and mean Pareto accuracy over all seven (and levels of depth),
    which validation chooses"""
    sn = learn.supernet
    nets = {w:sn.space.uniform(w) for w in WIDTHS}
    deep = [Construct(levels=7, dims=dims) for dims in (('depth',), ('width','depth'))] if sn.space.depth else []
    candidates = [*dict.fromkeys([*nets.values(), *[s for c in deep for s in levels_of(c, sn.space)]])]
    valid, res = None, {}
    for k,dl in dls.items():
        found = evaluate_subnets(learn, candidates, dl=dl.new(bs=256), calibrate=1000)
        if valid is None: valid = found.accuracy # of the first, the validation set
        found['valid'], accuracy_of = valid, dict(zip(found.subnet, found.accuracy))
        mean = mean_pareto_accuracy(found, sn.macs(nets[.25]), sn.macs(nets[1.]), metric='accuracy', by='valid')
        res[k] = dict(widths={str(w): percent(accuracy_of[nets[w]]) for w in FOUR}, mean_pareto=percent(mean, 3))
    return res

def cost(c, rounds=3):
    "Seconds of 16 steps over those of the base recipe, in turn; median. For 'alone': of the four widths together"
    def seconds(recipe, **kw):
        short = dict(c, recipe=recipe, steps=16, seed=0, lr=.01, **kw)
        return fit(learner(short), short)
    def seconds_of_all():
        return sum(seconds('alone', width=w) for w in FOUR) if c['recipe']=='alone' else seconds(c['recipe'])
    return dict(ratio=round(statistics.median(seconds_of_all()/seconds('us_net') for _ in range(rounds)), 3))

# Equal cost

def ratio(net, recipe):
    "Measured cost of a step over one of the base; None where it was not measured yet"
    if recipe=='us_net': return 1.
    def same(r): return r['name']=='cost' and (r['config']['net'],r['config']['recipe'])==(net,recipe)
    return next((r['ratio'] for r in rows(path) if same(r)), None)

def run_of(name, net, recipe, seed, lr, share=1., **kw):
    """Name and configuration with the steps that cost `share` of what the base's cost;
    nothing where rate or cost are not known yet"""
    per_step = ratio(net, recipe)
    if per_step is None or lr is None: return
    steps = round(BASE['steps']*SHARE[net]*share/per_step)
    yield name, dict(BASE, net=net, recipe=recipe, seed=seed, lr=lr, steps=steps, **kw)

# Learning rates: chosen on validation alone

def by_rate(name, recipe, seed, width=None, net='resnet'):
    "Learning rate -> what it gave on validation"
    def same(c): return tuple(c.get(k) for k in ('net','recipe','seed','width'))==(net,recipe,seed,width)
    def value(r): return r['valid']['mean_pareto'] if width is None else r['valid']['widths'][str(width)]
    return {r['config']['lr']:value(r) for r in rows(path) if r['name']==name and same(r['config'])}

def base_rates():
    "The base's two best learning rates, best first; none before all were run"
    got = by_rate('screen', 'us_net', SCREEN[0])
    return sorted(got, key=got.get, reverse=True)[:2] if len(got)==len(LRS) else []

def rates_to_try(got):
    """Learning rates of a search which has `got` some: the base's two, and then the neighbours of the best,
    until it lies between worse ones or at an end of the list"""
    two = base_rates()
    if not two or not {*two}<={*got}: return two
    i = LRS.index(max(got, key=got.get))
    return [*dict.fromkeys([*two, *got, *LRS[max(i-1, 0):i+2]])]

def finished(got):
    rates = rates_to_try(got)
    return bool(rates) and {*rates}<={*got}

def search_runs(name, recipe, seeds, width=None):
    "(rate, seed) of a search: with the first seed until it is finished, then the two best with the second"
    got = by_rate(name, recipe, seeds[0], width)
    runs = [(lr,seeds[0]) for lr in rates_to_try(got)]
    if finished(got): runs += [(lr,seeds[1]) for lr in sorted(got, key=got.get)[-2:]]
    return runs

def search_of(recipe):
    "Name and seeds of the rows in which a recipe's rate was searched"
    return ('lr',SEARCH) if recipe=='alone' or recipe in PUBLISHED and recipe!='us_net' else ('screen',SCREEN)

def on_vgg(recipe, width=None):
    "Learning rate -> what it gave on validation on VGG, with the first seed of those that report"
    return by_rate('alone' if width else 'confirm', recipe, FRESH[0], width, 'vgg')

def best_lr(recipe, width=None, net='resnet'):
    """The learning rate of a recipe, by validation: what its search ended with, or the base's; None before all is
    there. MobileNet has none of its own, and takes the lower of the others'"""
    if net=='mobilenet':
        both = [best_lr(recipe, width, n) for n in ('resnet','vgg')]
        return None if None in both else min(both)
    if net=='vgg':
        got = on_vgg(recipe, width)
        return max(got, key=got.get) if finished(got) else None
    if recipe not in (*PUBLISHED, 'alone', select()[1]): return next(iter(base_rates()), None)
    return searched_lr(recipe, width)

def searched_lr(recipe, width):
    "The better in the mean of the two rates that have both seeds; None before they have"
    name, seeds = search_of(recipe)
    got = {s:by_rate(name, recipe, s, width) for s in seeds}
    runs = search_runs(name, recipe, seeds, width)
    if not runs or not all(lr in got[s] for lr,s in runs): return None
    return max((lr for lr,s in runs if s==seeds[1]), key=lambda lr: got[seeds[0]][lr]+got[seeds[1]][lr])

# What is worth running

def gain(recipe, seed=SCREEN[0]):
    """Mean Pareto accuracy on validation over the base's, each at the best rate that it was run with;
    None before both are there"""
    got, than = (by_rate('screen', r, seed) for r in (recipe, 'us_net'))
    return max(got.values())-max(than.values()) if got and than else None

def best_of_fields(got, n):
    "Per field of a recipe its `n` best values that gain and suit all networks; the field of the best one first"
    def able(r): return got[r]>0 and all(suits(r, net) for net in NETS)
    best = [sorted((r for r in RECIPES if r.startswith(f'{field}:') and able(r)), key=got.get, reverse=True)[:n]
            for field in ('construct','gradient','update','schedule')]
    return sorted(filter(None, best), key=lambda values: -got[values[0]])

def select(n=2):
    """Forward selection: the best value of all, then field by field the better of its `n` best (of those that suit all
    networks) together with what was chosen, where that gains.
    -> recipes in the order of trial, and the last one chosen (None while rows are missing)"""
    got = {r:gain(r) for r in RECIPES}
    if not base_rates() or None in got.values(): return [], None
    tried, best = [], 'us_net'
    for values in best_of_fields(got, n):
        names = values if best=='us_net' else [f'{best} + {v}' for v in values]
        names = [r for r in names if may(r)]
        tried += names
        if None in [gain(r) for r in names]: return tried, None
        best = max([best, *names], key=lambda r: gain(r) or 0.)
    return tried, best

def finalists():
    "Who is worth a second seed: the base, the best value of all, and what the selection ends with"
    tried, best = select()
    return [*dict.fromkeys(['us_net', *tried[:1], best])] if best else []

def winners():
    "The finalists that gained on validation over both seeds, best first; none where none gained, or rows are missing"
    got = {r:[gain(r, s) for s in SCREEN] for r in finalists() if r!='us_net'}
    if any(None in gains for gains in got.values()): return []
    means = {r:statistics.mean(gains) for r,gains in got.items()}
    return sorted((r for r in means if means[r]>0), key=lambda r: -means[r])

# Configurations

def configs(seeds):
    "Name and configuration of each run, in order"
    yield from screened('us_net', SCREEN[0], LRS)
    yield from costs('resnet', RECIPES)
    for r in RECIPES: yield from screened(r, SCREEN[0], base_rates()[:1])
    for r in select()[0]:
        yield from costs('resnet', [r] if r not in RECIPES else [])
        yield from screened(r, SCREEN[0], base_rates()[:1])
    for r in finalists():
        own_search = r in ('us_net', select()[1])
        for lr,s in search_runs('screen', r, SCREEN) if own_search else [(best_lr(r),SCREEN[1])]:
            yield from screened(r, s, [lr])
    best = (*PUBLISHED, *winners()[:1])
    yield from confirmed(best, NETS, FRESH[:3])
    yield from confirmed(best, ['vgg'], FRESH[3:])
    yield from confirmed(best, ['vgg'], FRESH[:1], LONG)
    yield from confirmed(best, ['resnet'], FRESH[3:])
    yield from confirmed(best, ['vgg'], FRESH[1:3], LONG)
    yield from confirmed(winners()[1:], NETS, FRESH[:3])

def confirmed(recipes, nets, seeds, times=1):
    """Recipes and each width alone with fresh `seeds`, and the costs and rates that they need;
    named 'long' where `times` the base's steps are run"""
    for net in nets:
        able = [r for r in recipes if suits(r, net)]
        yield from costs(net, ['alone', *able])
        if net=='resnet': yield from rate_searches()
        for s in seeds:
            for w in FOUR: yield from confirming(net, 'alone', w, s, times)
            for r in able: yield from confirming(net, r, None, s, times)

def rate_searches():
    "Of published recipes and single widths, on ResNet-20; of half the steps"
    for r in PUBLISHED:
        if r!='us_net': yield from searched(r)
    for w in FOUR: yield from searched('alone', width=w)

def confirming(net, recipe, width, seed, times):
    "A run with its learning rate; the first seed that reports on VGG searches it, on validation"
    search = net=='vgg' and seed==FRESH[0] and times==1
    name = 'long' if times>1 else 'alone' if width else 'confirm'
    options = dict(width=width) if width else {}
    for lr in rates_to_try(on_vgg(recipe, width)) if search else [best_lr(recipe, width, net)]:
        yield from run_of(name, net, recipe, seed, lr, times, **options)

def costs(net, names):
    for r in names:
        if r!='us_net': yield 'cost', dict(BASE, net=net, recipe=r, cost=True)

def searched(recipe, **kw):
    for lr,s in search_runs('lr', recipe, SEARCH, **kw): yield from run_of('lr', 'resnet', recipe, s, lr, .5, **kw)

def screened(recipe, seed, rates):
    for lr in rates: yield from run_of('screen', 'resnet', recipe, seed, lr)

if __name__=='__main__': main(__doc__, onion=Job(path, configs, train))
