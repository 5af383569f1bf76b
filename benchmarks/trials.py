"One run of each kind, for the queues `evidence.py` (a processor, hours) and `gpu_evidence.py` (a card, minutes)"
import time
import torch
from torch.nn import functional as F
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedNo, combine_scheds
from fastai.learner import Learner
from fastai.metrics import accuracy
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.grow.seeded import seeded_onion
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.zoo.data import cifar_dls
from elastic_nets.zoo.models import resnet_cifar
from common import CPUMixed, Lean, optimizer, rows, run_fit, set_seed
from grow import stage_plan
import shrink

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
def formats(c): return ([CPUMixed()] if 'bf16' in c['fmt'] else [])+([ChannelsLast()] if 'last' in c['fmt'] else [])

# Growth in width

GROWTH = dict(net=20, width=32, n_train=45_000, epochs=12, lr=.2, schedule='cycle', bs=128, mom=.9, wd=5e-3,
              opt='fastai', fmt='bf16 channels_last', plan=None, init=None, carry=True, seed=0)
POINTS = 60 # of the curve of the training loss

class Losses(Callback):
    "The training loss of every step; nothing waits for it"
    run_valid = False
    def before_fit(self):
        if not hasattr(self, 'found'): self.found = [] # `validate` begins a fit, too
    def after_batch(self): self.found.append(self.loss.detach())
    def curve(self):
        "Means over equal parts of the run"
        found = torch.stack(self.found).float().cpu()
        return [round(part.mean().item(), 3) for part in found.tensor_split(min(POINTS, len(found)))]

class Sizes(Callback):
    "Smaller pictures first: [[pixels, from this part of the fit on], ...]"
    run_valid = False
    def __init__(self, sizes): self.sizes = sizes
    def before_batch(self):
        px = [px for px,start in self.sizes if start<=self.pct_train+1e-9][-1]
        if px<self.x.shape[-1]: self.learn.xb = F.interpolate(self.x, px, mode='bilinear', antialias=True),

def growing(c):
    "How configuration `c` grows; in older rows only the plan, the init and the state may vary"
    options = {k:c[k] for k in ('rewarm','only_new') if k in c}
    plan = c['plan'] if c['plan']=='auto' else stage_plan(c)
    return GrowWidth(plan=plan, init=c['init'], carry_state=c['carry'], **options)

def growth(c):
    "One run: accuracy on validation and test, what the fit took, and the course of the training loss"
    set_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device=DEVICE)
    lean = [] if c['plan']=='auto' else [Lean()] # the gap between the losses needs validations
    learn = Learner(dls, resnet_cifar(c['net'], width=c['width']), metrics=accuracy, opt_func=optimizer(c), wd=c['wd'],
                    moms=(c['mom'],)*3, cbs=[*formats(c), *lean])
    losses = Losses()
    learn.add_cbs([losses, *([Sizes(c['sizes'])] if 'sizes' in c else [])])
    return dict(run_fit(learn, c, [growing(c)] if c['plan'] else []), losses=losses.curve())

# Families: the recipes of shrink.py, with other targets, and a core that is trained alone and grows into a family

FAMILY = shrink.BASE

def family(c): return seeded(c) if c['recipe']=='seeded_onion' else shrink.train(c)

def own_fit(learn, epochs, lr, cbs):
    "Seconds and processor seconds of a fit with this course of the learning rate"
    wall,processor = time.perf_counter(), time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, cbs=[ParamScheduler({'lr': lr}), *cbs])
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter()-wall, time.process_time()-processor

def seeded(c):
    """One fit of `seeded_onion`: the rate warms up, stays flat while the network grows, and falls with the family.
    (Rows of the recipe 'seeded' are of two fits, before it was a recipe; their `core` is in epochs)"""
    learn, nets, lr = shrink.learner(c), shrink.Nets(), c['lr']
    core = c['options'].get('core', .5)
    rate = combine_scheds([.2*core, .8*core, 1-core], [SchedCos(lr/25, lr), SchedNo(lr, lr), SchedCos(lr, 1e-6)])
    onion = OnionTraining(seeded_onion(**c['options']), seed=c['seed'], watch=(), estimate=False)
    wall, processor = own_fit(learn, c['epochs'], rate, [onion, nets])
    steps = c['epochs']*len(learn.dls.train)
    return dict(shrink.judge(learn, c), seconds=round(wall, 1), cpu_seconds=round(processor, 1), steps=steps,
                of_steps=steps, **nets.passes(learn.supernet))

# Learning rates

def search(path, name, base, first, widen=True):
    """Rates that are still to be run with `base`, and the best, None before it is known:
    by validation, and with `widen` a best at the edge widens the grid by a factor of two"""
    def same(c): return {k:v for k,v in c.items() if k!='lr'}=={k:v for k,v in base.items() if k!='lr'}
    found = {r['config']['lr']:r['valid'] for r in rows(path) if r['name']==name and same(r['config'])}
    asked = {*first, *found}
    missing = sorted(asked-{*found})
    if missing: return missing, None
    best = max(found, key=lambda lr: found[lr] if found[lr]==found[lr] else 0.)
    if widen and best==max(asked) and best<6.: return [2*best], None
    if widen and best==min(asked): return [best/2], None
    return [], best

def rate_runs(path, name, base, first, widen=True):
    "The runs of a search"
    for lr in search(path, name, base, first, widen)[0]: yield name, dict(base, lr=lr)

def valid_of(path, name, c):
    "What a run gave on validation; None before it is a row"
    return next((r['valid'] for r in rows(path) if r['name']==name and r['config']==c), None)
