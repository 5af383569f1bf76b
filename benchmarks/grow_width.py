"""Growing in width on CIFAR-10 against the dense network: every run is a row of results/grow_width.jsonl, and a restart skips it

python benchmarks/grow_width.py [--only lr dense plan ...] [--seeds 0 1 2] [--list]
"""
import random
from functools import partial
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from elastic_nets.zoo.data import cifar_dls
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.grow.stages import StagePlan
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.grow.widen import init_orthogonal
from common import CPUMixed, Lean, main, results, run_fit

path = results/'grow_width.jsonl'
BASE = dict(net=20, width=32, n_train=10_000, epochs=20, lr=.4, mom=.9, bs=128, plan=None, init=None, carry=True)

def learner(c):
    "A learner for configuration `c`: network and data follow its seed"
    random.seed(c['seed']); np.random.seed(c['seed']); torch.manual_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cuda' if torch.cuda.is_available() else 'cpu')
    return Learner(dls, resnet_cifar(c['net'], width=c['width']), metrics=accuracy, opt_func=partial(SGD, mom=c['mom']), wd=5e-4, moms=(c['mom'],)*3,
                    cbs=[CPUMixed(), ChannelsLast(), Lean()])

def train(c):
    "One run: accuracy on validation and test, and what the fit took"
    return run_fit(learner(c), c, grower(c))

def grower(c):
    "The callbacks of configuration `c`"
    if c['plan'] is None: return []
    return [GrowWidth(plan=StagePlan(*zip(*c['plan'])), init=half if c['init']=='half as long' else c['init'], carry_state=c['carry'], adapt_lr=c.get('adapt', False))]

def half(w, n_out, n_in):
    "Orthogonal vectors, half as long as the old ones"
    x = init_orthogonal(w, n_out, n_in)
    x[len(w):,:w.shape[1]] /= 2; x[:len(w),w.shape[1]:] /= 2
    return x

HALF, UNIFORM = [[.5,0.],[1.,.6]], [[.5,0.],[.75,1/3],[1.,2/3]] # what `plan_stages` plans for 1.6x at base width 32, and the paper's rule

def configs(seeds):
    "Name -> configurations, in the order in which they are run"
    if torch.cuda.is_available(): # as the paper: all pictures, a long schedule; large batches, since small nets wait for launches
        for s in seeds:
            for net in (32,56):
                large = dict(BASE, net=net, width=16, n_train=45_000, epochs=60, bs=1024, seed=s)
                for name,plan in (('dense',None), ('plan',HALF), ('uniform',[[.5+i/8,i/5] for i in range(5)])): yield name, dict(large, plan=plan, init='orthogonal' if plan else None)
        return
    small = dict(BASE, net=8, width=16, epochs=10)
    for lr in (.05,.1,.2,.4,.8): yield 'lr', dict(small, lr=lr, seed=100)
    for s in seeds:
        for w,longer,shorter in ((32,33,12),(16,29,14)): # epochs that fit into the dense run's seconds, and of a dense run into the grown one's, by seed 0's processor seconds
            yield 'dense', dict(BASE, width=w, seed=s)
            yield 'plan', dict(BASE, width=w, seed=s, plan=HALF, init='orthogonal')
            yield 'plan, equal seconds', dict(BASE, width=w, seed=s, plan=HALF, init='orthogonal', epochs=longer)
            if s==0: yield 'dense, seconds of the plan', dict(BASE, width=w, seed=s, epochs=shorter)
        for w in (32,16): yield 'uniform', dict(BASE, width=w, seed=s, plan=UNIFORM, init='orthogonal')
        yield 'init', dict(small, seed=s) # a smaller network
        for init in ('orthogonal','random','replicate','net2net','variance','half as long'): yield 'init', dict(small, seed=s, plan=HALF, init=init)
        yield 'state', dict(small, seed=s, plan=HALF, init='orthogonal', carry=False)
        yield 'state', dict(small, seed=s, plan=HALF, init='variance', adapt=True)
        for start,until in ((.25,.6),(.75,.6),(.5,.4),(.5,.2)): yield 'start', dict(small, seed=s, plan=[[start,0.],[1.,until]], init='orthogonal')

if __name__=='__main__': main(__doc__, path, configs, train)
