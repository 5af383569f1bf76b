"""Is a search better than chance, at an equal number of evaluations?

python benchmarks/search.py [--only NAME] [--seeds 0 1 2 ...]

Every subnet of a space is evaluated once, by which the best within each budget is known. The searches then look
figures up, so that many seeds cost nothing.
"""
import random, time
from functools import lru_cache
import numpy as np, torch
from fastai.callback.all import * # noqa: F403, patches Learner
from fastai.learner import Learner
from fastai.metrics import accuracy
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

SPACES = dict(resnet=(resnet, 8), compofa=(compofa, 12)) # and epochs

@lru_cache
def trained(name):
    "The learner, and the accuracy of every subnet of its space"
    set_seed(0)
    make, epochs = SPACES[name]
    learn, start = make(), time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-2, cbs=OnionTraining(bignas(), estimate=False, watch=()))
        table = evaluate_subnets(learn, list(learn.supernet.space), calibrate=CALIBRATE)
    print(f'{name}: {len(table)} subnets, {time.perf_counter()-start:.0f} s', flush=True)
    return learn, table

def by_chance(learn, space, n, seed):
    rng, drawn = random.Random(seed), {}
    for _ in range(50*n):
        if len(drawn)==n: break
        drawn[space.sample(rng)] = None
    return evaluate_subnets(learn, drawn, calibrate=CALIBRATE)

def by_tpe(learn, budget, n, seed):
    with learn.no_bar(): return learn.search_subnet(n=n, seed=seed, calibrate=CALIBRATE, **budget).table

def by_prediction(learn, budget, n, seed):
    "Half of the evaluations teach a predictor, which chooses the others"
    with learn.no_bar():
        predictor = learn.accuracy_predictor(n=n//2, seed=seed, calibrate=CALIBRATE, **budget)
        return learn.search_subnet(n=n, seed=seed, calibrate=CALIBRATE, predictor=predictor, **budget).table

def train(c):
    "One search: what it found, and what there is"
    learn, known = trained(c['space'])
    sn, budget = learn.supernet, dict(macs=c['macs']) if c['macs'] else {}
    space = sn.constrain(**budget) if budget else sn.space
    allowed = known[[s in space for s in known.subnet]]
    if c['method']=='chance': table = by_chance(learn, space, c['n'], c['seed'])
    else: table = dict(tpe=by_tpe, predictor=by_prediction)[c['method']](learn, budget, c['n'], c['seed'])
    assert {*table.subnet} <= {*allowed.subnet} and len(table)<=c['n']
    share = float((allowed.accuracy>table.accuracy.max()+1e-9).mean())
    return dict(found=round(100*table.accuracy.max(), 3), best=round(100*allowed.accuracy.max(), 3),
                better=round(100*share, 3), evaluated=len(table), subnets=len(allowed),
                median=round(100*float(np.median(allowed.accuracy)), 3))

def configs(seeds):
    for space,n in (('resnet', 32), ('resnet', 64), ('compofa', 16), ('compofa', 64)):
        for macs in ('30%', '50%', None):
            for method in ('chance', 'tpe', 'predictor'):
                for seed in seeds:
                    yield f'{space} {method}', dict(space=space, method=method, macs=macs, n=n, seed=seed)

if __name__ == '__main__': main(__doc__, search=Job(path, configs, train))
