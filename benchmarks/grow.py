"""Growing against the dense network

In width and depth on CIFAR-10, and a part of a network on generated shapes (or Cityscapes).
Every run is a row of results/grow_*.jsonl, and a restart skips it.

python benchmarks/grow.py [--parts width depth segment correlation] [--only lr dense plan ...] [--seeds 0 1 2] [--list]
CITYSCAPES=/path/to/cityscapes python benchmarks/grow.py --parts segment     # at 768 pixels: a GPU's work
"""
import copy, os
from functools import partial
import torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper, SGD
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.growing import GrowDepth, GrowWidth
from elastic_nets.grow.stages import StagePlan
from elastic_nets.grow.widen import INITS, grow_width, start_narrow
from elastic_nets.zoo.data import MeanIoU, cifar_dls, cityscapes_dls, shapes_dls
from elastic_nets.zoo.models import deeplabv3plus, resnet_cifar, vit
from common import CPUMixed, Job, Lean, main, results, run_fit, set_seed

def stage_plan(c): return StagePlan(*zip(*c['plan'])) # [[size, from this part of the fit on], ...]

# Width

WIDTH = dict(net=20, width=32, n_train=10_000, epochs=20, lr=.4, mom=.9, bs=128, plan=None, init=None, carry=True)
PLAN = [[.5,0.],[1.,.6]] # what `plan_stages` plans for 1.6x at base width 32
UNIFORM = [[.5,0.],[.75,1/3],[1.,2/3]] # the paper's rule with three stages
FIVE = [[.5+i/8,i/5] for i in range(5)] # and with five

def width_learner(c):
    "A learner for configuration `c`: network and data follow its seed"
    set_seed(c['seed'])
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device=device)
    return Learner(dls, resnet_cifar(c['net'], width=c['width']), metrics=accuracy, opt_func=partial(SGD, mom=c['mom']),
                   wd=5e-4, moms=(c['mom'],)*3, cbs=[CPUMixed(), ChannelsLast(), Lean()])

def train_width(c):
    "One run: accuracy on validation and test, and what the fit took"
    learn = width_learner(c)
    if c['plan'] is None: return run_fit(learn, c, [])
    init = 'half' if c['init']=='half as long' else c['init']
    grow = GrowWidth(plan=stage_plan(c), init=init, carry_state=c['carry'], adapt_lr=c.get('adapt', False))
    return run_fit(learn, c, [grow])

def width_configs(seeds):
    "Name and configuration of each run, in order"
    if torch.cuda.is_available():
        for s in seeds: yield from width_on_gpu(s)
        return
    for lr in (.05,.1,.2,.4,.8): yield 'lr', dict(WIDTH, net=8, width=16, epochs=10, lr=lr, seed=100)
    for s in seeds:
        yield from width_at_equal_cost(s)
        yield from width_choices(s)

def width_on_gpu(seed):
    "As the paper: all pictures, a long schedule; large batches, since small networks wait for launches"
    for net in (32,56):
        large = dict(WIDTH, net=net, width=16, n_train=45_000, epochs=60, bs=1024, seed=seed)
        yield 'dense', large
        for name,plan in (('plan',PLAN), ('uniform',FIVE)): yield name, dict(large, plan=plan, init='orthogonal')

def width_at_equal_cost(seed):
    "ResNet-20 at two base widths, for equal epochs and equal seconds"
    grown = dict(plan=PLAN, init='orthogonal', seed=seed)
    # epochs that fit into the dense run's seconds, and of a dense run into the grown one's: by seed 0's processor
    for base_width,longer,shorter in ((32,33,12), (16,29,14)):
        c = dict(WIDTH, width=base_width, seed=seed)
        yield 'dense', c
        yield 'plan', dict(c, **grown)
        yield 'plan, equal seconds', dict(c, **grown, epochs=longer)
        if seed==0: yield 'dense, seconds of the plan', dict(c, epochs=shorter)
    for base_width in (32,16):
        yield 'uniform', dict(WIDTH, width=base_width, seed=seed, plan=UNIFORM, init='orthogonal')

def width_choices(seed):
    "How new channels begin, what happens to the optimizer's state, and where to start, on a smaller network"
    small = dict(WIDTH, net=8, width=16, epochs=10, seed=seed)
    yield 'init', small
    for init in ('orthogonal','random','replicate','net2net','variance','half as long'):
        yield 'init', dict(small, plan=PLAN, init=init)
    yield 'state', dict(small, plan=PLAN, init='orthogonal', carry=False)
    yield 'state', dict(small, plan=PLAN, init='variance', adapt=True)
    for start,until in ((.25,.6), (.75,.6), (.5,.4), (.5,.2)):
        yield 'start', dict(small, plan=[[start,0.],[1.,until]], init='orthogonal')

# Depth: a small ViT

DEPTH = dict(patch=8, dim=96, depth=8, heads=3, n_train=10_000, epochs=15, lr=2e-3, bs=128, plan=None, grow={})
HALF, THREE = [[.5,0.],[1.,.5]], [[.5,0.],[.75,1/3],[1.,2/3]]

def adamw(params, **kw): return OptimWrapper(params, torch.optim.AdamW, **kw)

def train_depth(c):
    "One run: accuracy on validation and test, and what the fit took"
    set_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cpu')
    model = vit(img=32, patch=c['patch'], dim=c['dim'], depth=c['depth'], heads=c['heads'], drop_path=.1)
    learn = Learner(dls, model, metrics=accuracy, opt_func=adamw, wd=.05, cbs=[Lean()])
    return run_fit(learn, c, [GrowDepth(plan=stage_plan(c), **c['grow'])] if c['plan'] else [])

def depth_configs(seeds):
    "Name and configuration of each run, in order"
    for s in seeds:
        c = dict(DEPTH, seed=s)
        yield 'dense', c
        yield 'EMA, inserted', dict(c, plan=HALF)
        yield 'model, inserted', dict(c, plan=HALF, grow=dict(block='model'))
        yield 'model, stacked (StackBERT)', dict(c, plan=HALF, grow=dict(block='model', place='stack'))
        yield 'EMA, inserted, last layer zero', dict(c, plan=HALF, grow=dict(zero_last=True))
        if s: continue # the rest once
        yield 'EMA, inserted, 3 stages', dict(c, plan=THREE)
        yield 'EMA, inserted, state forgotten', dict(c, plan=HALF, grow=dict(carry_state=False))
        for start in (.25,.75): yield f'EMA, inserted, from {start:g} of the blocks', dict(c, plan=[[start,0.],[1.,.5]])

# A part of a network: the backbone of DeepLabV3+

city = os.environ.get('CITYSCAPES')
SEGMENT = dict(data='shapes', backbone='resnet18', width=48, n=1000, px=64, epochs=12, lr=.1, bs=16, plan=None)
if city: SEGMENT.update(data='cityscapes', backbone='resnet101', width=256, n=2975, px=768, epochs=215)

def train_segment(c):
    "One run: mean IoU on validation and test, and what the fit took"
    set_seed(c['seed'])
    if c['data']=='cityscapes': dls = cityscapes_dls(city, size=c['px'], bs=c['bs'], seed=c['seed'])
    else: dls = shapes_dls(n=c['n'], size=c['px'], bs=c['bs'], seed=c['seed'])
    model = deeplabv3plus(c['backbone'], n_classes=19 if city else 4, width=c['width'])
    learn = Learner(dls, model, metrics=MeanIoU(), opt_func=partial(SGD, mom=.9), wd=1e-4, moms=(.9,.9,.9),
                    cbs=[CPUMixed(), Lean()])
    return run_fit(learn, c, [GrowWidth(plan=stage_plan(c), submodule='backbone')] if c['plan'] else [])

def segment_configs(seeds):
    "Name and configuration of each run, in order"
    for s in seeds:
        yield 'dense', dict(SEGMENT, seed=s)
        yield 'backbone grown, 2 stages', dict(SEGMENT, seed=s, plan=HALF)
        yield 'backbone grown, 3 stages', dict(SEGMENT, seed=s, plan=THREE)

# Figure 6 of the paper: how feature maps correlate just after growth

LAYER = 'layer1.0.conv2.conv' # the third convolution

def train_correlation(c):
    "Five epochs at half width, then growth to three quarters: Pearson correlations between maps of one test picture"
    learn = width_learner(c)
    graph = trace_channels(learn.model, learn.dls.one_batch()[0])
    keep = start_narrow(learn.model, graph, .5)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'])
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, Lean)])
    picture = learn.dls.test.one_batch()[0][:1].as_subclass(torch.Tensor)
    found = {}
    for init in ('replicate','orthogonal','random'):
        model = copy.deepcopy(learn.model).eval()
        torch.manual_seed(c['seed'])
        grow_width(model, graph, keep, .75, INITS[init])
        found[init] = [[round(v, 3) for v in r] for r in correlations(model, picture)]
    return dict(layer=LAYER, correlations=found)

def correlations(model, picture):
    "Between the feature maps of one layer"
    maps = []
    model.get_submodule(LAYER).register_forward_hook(lambda layer,inputs,out: maps.append(out))
    with torch.no_grad(): model(picture)
    return torch.corrcoef(maps[0][0].flatten(1)).tolist()

def correlation_configs(seeds):
    "Once"
    for s in seeds[:1]: yield 'correlation', dict(WIDTH, width=16, epochs=5, seed=s)

JOBS = dict(width=Job(results/'grow_width.jsonl', width_configs, train_width),
            depth=Job(results/'grow_depth.jsonl', depth_configs, train_depth),
            segment=Job(results/'grow_segment.jsonl', segment_configs, train_segment),
            correlation=Job(results/'grow_correlation.jsonl', correlation_configs, train_correlation))

if __name__=='__main__': main(__doc__, **JOBS)
