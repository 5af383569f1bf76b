"""DeepLabV3+ whose backbone grows, on generated shapes (or Cityscapes); every run is a row of results/grow_segment.jsonl, and a restart skips it

python benchmarks/grow_segment.py [--only dense ...] [--seeds 0 1 2] [--list]
CITYSCAPES=/path/to/cityscapes python benchmarks/grow_segment.py     # the real thing, at 768 pixels: a GPU's work
"""
import os, random
from functools import partial
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.learner import Learner
from fastai.optimizer import SGD
from elastic_nets.zoo.data import MeanIoU, cityscapes_dls, shapes_dls
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.grow.stages import StagePlan
from elastic_nets.zoo.models import deeplabv3plus
from common import CPUMixed, Lean, main, results, run_fit

path, city = results/'grow_segment.jsonl', os.environ.get('CITYSCAPES')
BASE = dict(data='shapes', backbone='resnet18', width=48, n=1000, px=64, epochs=12, lr=.1, bs=16, plan=None)
if city: BASE.update(data='cityscapes', backbone='resnet101', width=256, n=2975, px=768, epochs=215)

def train(c):
    "One run: mean IoU on validation and test, and what the fit took"
    random.seed(c['seed']); np.random.seed(c['seed']); torch.manual_seed(c['seed'])
    dls = cityscapes_dls(city, size=c['px'], bs=c['bs'], seed=c['seed']) if c['data']=='cityscapes' else shapes_dls(n=c['n'], size=c['px'], bs=c['bs'], seed=c['seed'])
    model = deeplabv3plus(c['backbone'], n_classes=19 if city else 4, width=c['width'])
    learn = Learner(dls, model, metrics=MeanIoU(), opt_func=partial(SGD, mom=.9), wd=1e-4, moms=(.9,.9,.9), cbs=[CPUMixed(), Lean()])
    cbs = [GrowWidth(plan=StagePlan(*zip(*c['plan'])), submodule='backbone')] if c['plan'] else []
    return run_fit(learn, c, cbs)

def configs(seeds):
    "Name -> configurations, in the order in which they are run"
    for s in seeds:
        yield 'dense', dict(BASE, seed=s)
        yield 'backbone grown, 2 stages', dict(BASE, seed=s, plan=[[.5,0.],[1.,.5]])
        yield 'backbone grown, 3 stages', dict(BASE, seed=s, plan=[[.5,0.],[.75,1/3],[1.,2/3]])

if __name__=='__main__': main(__doc__, path, configs, train)
