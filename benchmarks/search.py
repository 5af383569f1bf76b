"""Is a search better than chance, at an equal number of evaluations?

python benchmarks/search.py [--only NAME] [--seeds 0 1 2 ...] (the page has 20)

Every subnet of a space is evaluated once, by which the best within each budget is known. The searches then look
figures up, so that many seeds cost nothing.
"""
import random, time
from functools import cache
import numpy as np
from fastai.callback.all import * # noqa: F403, patches Learner
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch.nn import functional as F
from elastic_nets.shrink.methods import bignas
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.use.evaluate import evaluate_subnets
from elastic_nets.use import search # noqa: F401, patches Learner
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.zoo.spaces import compofa_space, ofa_mobilenetv3
from common import Job, main, results, set_seed

path = results/'search.jsonl'
CALIBRATE = 512

def resnet():
    "ResNet-8, 8 pixels: six widths and a depth"
    learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1, width=8), metrics=accuracy)
    learn.to_supernet(widths=(.25,.5,1.), depths=(0,1))
    return learn

def compofa():
    "CompOFA's space of 243 networks, half as wide, 8 pixels"
    net, space = ofa_mobilenetv3(10, img=32, width=.5, kernels=(3,))
    learn = Learner(digits_dls(n_in=3, device='cpu'), net, metrics=accuracy)
    learn.to_supernet(space=compofa_space(space), check=False)
    return learn

SPACES = dict(resnet=(resnet, 8), compofa=(compofa, 8)) # and epochs
def loss(pred, y): return F.cross_entropy(pred, y) # has no ties
METRICS = dict(accuracy=(accuracy, 100), loss=(loss, 1)) # and its unit

@cache
def trained(name):
    "A learner whose supernet is trained"
    set_seed(0)
    make, epochs = SPACES[name]
    learn, start = make(), time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-2, cbs=OnionTraining(bignas(), estimate=False, watch=()))
    print(f'{name}: trained in {time.perf_counter()-start:.0f} s', flush=True)
    return learn

@cache
def known(name, metric):
    "What every subnet of a space gets"
    learn, start = trained(name), time.perf_counter()
    with learn.no_bar():
        table = evaluate_subnets(learn, list(learn.supernet.space), METRICS[metric][0], calibrate=CALIBRATE)
    print(f'{name}: {metric} of {len(table)} subnets in {time.perf_counter()-start:.0f} s', flush=True)
    return table

# Ways to choose `n` subnets within a budget

def by_chance(learn, space, budget, allowed, n, seed, metric):
    "Each subnet within the budget is as likely as any other: random search"
    drawn = random.Random(seed).sample([*allowed.subnet], min(n, len(allowed)))
    return evaluate_subnets(learn, drawn, metric, calibrate=CALIBRATE)

def near_the_limit(learn, space, budget, allowed, n, seed, metric):
    "Random subnets that use the budget, as `sn.constrain(...).sample` draws them"
    rng, drawn = random.Random(seed), {}
    for _ in range(50*n):
        if len(drawn)==n: break
        drawn[space.sample(rng)] = None
    return evaluate_subnets(learn, drawn, metric, calibrate=CALIBRATE)

def by_tpe(learn, space, budget, allowed, **kw): return learn.search_subnet(calibrate=CALIBRATE, **kw, **budget).table

def by_prediction(learn, space, budget, allowed, n, **kw):
    "Half of the evaluations teach a predictor, which chooses the others"
    predictor = learn.accuracy_predictor(n=n//2, calibrate=CALIBRATE, **kw, **budget)
    return learn.search_subnet(n=n, calibrate=CALIBRATE, predictor=predictor, **kw, **budget).table

METHODS = dict(chance=by_chance, limit=near_the_limit, tpe=by_tpe, predictor=by_prediction)

def train(c):
    "One search: what it found, and what there is"
    learn, all_of_it = trained(c['space']), known(c['space'], c['metric'])
    sn, budget = learn.supernet, dict(macs=c['macs']) if c['macs'] else {}
    space = sn.constrain(**budget) if budget else sn.space
    allowed = all_of_it[[s in space for s in all_of_it.subnet]]
    name, (metric, unit) = c['metric'], METRICS[c['metric']]
    with learn.no_bar(), learn.no_logging():
        table = METHODS[c['method']](learn, space, budget, allowed, n=c['n'], seed=c['seed'], metric=metric)
    assert {*table.subnet} <= {*allowed.subnet} and len(table)<=c['n']
    sign = -1 if name=='loss' else 1
    found, there = sign*unit*table[name], sign*unit*allowed[name]
    return dict(found=round(sign*found.max(), 4), best=round(sign*there.max(), 4),
                median=round(sign*float(np.median(there)), 4), evaluated=len(table), subnets=len(allowed),
                better=round(100*float((there>found.max()+1e-9).mean()), 3)) # % of the subnets within the budget

def configs(seeds):
    runs = [('compofa', 64, 'accuracy', ('70%', None)), ('compofa', 24, 'loss', ('70%', None)),
            *[('resnet', n, 'loss', ('60%', '30%', None)) for n in (16, 32)]]
    for space,n,metric,budgets in runs:
        for macs in budgets:
            for method in METHODS:
                for seed in seeds[:5] if method=='predictor' else seeds: # a Gaussian process takes its time
                    c = dict(space=space, method=method, macs=macs, n=n, metric=metric, seed=seed)
                    yield f'{space} {method}', c

if __name__ == '__main__': main(__doc__, search=Job(path, configs, train))
