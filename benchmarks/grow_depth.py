"""Growing in depth on CIFAR-10: a small ViT from half its blocks; every run is a row of results/grow_depth.jsonl, and a restart skips it

python benchmarks/grow_depth.py [--only dense ema ...] [--seeds 0 1 2] [--list]
"""
import random
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from elastic_nets.zoo.data import cifar_dls
from elastic_nets.grow.growing import GrowDepth
from elastic_nets.grow.stages import StagePlan
from elastic_nets.zoo.models import vit
from common import Lean, main, results, run_fit

path = results/'grow_depth.jsonl'
BASE = dict(patch=8, dim=96, depth=8, heads=3, n_train=10_000, epochs=15, lr=2e-3, bs=128, plan=None, grow={})
HALF, THREE = [[.5,0.],[1.,.5]], [[.5,0.],[.75,1/3],[1.,2/3]]

def train(c):
    "One run: accuracy on validation and test, and what the fit took"
    random.seed(c['seed']); np.random.seed(c['seed']); torch.manual_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cpu')
    model = vit(img=32, patch=c['patch'], dim=c['dim'], depth=c['depth'], heads=c['heads'], drop_path=.1)
    learn = Learner(dls, model, metrics=accuracy, opt_func=lambda ps,**kw: OptimWrapper(ps, torch.optim.AdamW, **kw), wd=.05, cbs=[Lean()])
    cbs = [GrowDepth(plan=StagePlan(*zip(*c['plan'])), **c['grow'])] if c['plan'] else []
    return run_fit(learn, c, cbs)

def configs(seeds):
    "Name -> configurations, in the order in which they are run"
    for s in seeds:
        yield 'dense', dict(BASE, seed=s)
        yield 'EMA, inserted', dict(BASE, seed=s, plan=HALF)
        yield 'model, inserted', dict(BASE, seed=s, plan=HALF, grow=dict(block='model'))
        yield 'model, stacked (StackBERT)', dict(BASE, seed=s, plan=HALF, grow=dict(block='model', place='stack'))
        yield 'EMA, inserted, last layer zero', dict(BASE, seed=s, plan=HALF, grow=dict(zero_last=True))
        if s: continue # the rest once
        yield 'EMA, inserted, 3 stages', dict(BASE, seed=s, plan=THREE)
        yield 'EMA, inserted, state forgotten', dict(BASE, seed=s, plan=HALF, grow=dict(carry_state=False))
        for start in (.25,.75): yield f'EMA, inserted, from {start:g} of the blocks', dict(BASE, seed=s, plan=[[start,0.],[1.,.5]])

if __name__=='__main__': main(__doc__, path, configs, train)
