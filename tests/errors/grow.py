"Growing and its plans"
import copy, functools, torch
from fastai.optimizer import Adam
from torch import nn
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.deepen import BlockEMA, grow_depth, start_shallow
from elastic_nets.grow.growing import GrowDepth, GrowWidth
from elastic_nets.grow.seeded import NewSkins, seeded_onion
from elastic_nets.grow.stages import StagePlan, plan_stages, uniform_plan
from elastic_nets.grow.widen import grow_width, start_narrow
from elastic_nets.zoo.models import resnet_cifar, vit
from helpers import quietly
from helpers_grow import Stop, deep, learner, net

def half(m, x, start):
    "A model that was cut to one half, its graph, and what is left"
    graph = trace_channels(m, x)
    return m, graph, start(m, graph, .5)

@functools.cache
def narrow(): return half(resnet_cifar(8, width=8), torch.randn(1,3,16,16), start_narrow)

@functools.cache
def narrow_vit(): return half(vit(img=16, dim=24, depth=2, heads=2), torch.randn(1,3,16,16), start_narrow)

@functools.cache
def shallow(): return half(vit(img=16, dim=8, depth=6, heads=2), torch.randn(1,3,16,16), start_shallow)

def wider(width, keep=None, init='orthogonal', of=narrow):
    m, graph, kept = of()
    return grow_width(m, graph, kept if keep is None else keep(kept), width, init)

def deeper(depth, keep=None, **kw):
    m, graph, kept = shallow()
    return grow_depth(m, graph, kept if keep is None else keep, depth, **kw)

def ema(**kw): return BlockEMA(*shallow()[:2], **kw)

def other_ema(): # of another model
    m, graph, _ = shallow()
    return BlockEMA(copy.deepcopy(m), graph, half_life=1)

def foreign(): return Adam(list(nn.Linear(2,2).parameters()), lr=.1) # an optimizer of other parameters

def cut_with(opt): start_shallow(vit(img=16, dim=8, depth=6, heads=2), shallow()[1], .5, opt)

def fit(*cbs, n=3, model=None): return quietly(learner(model), 'fit', n, cbs=list(cbs))

def half_grown():
    learn = learner()
    quietly(learn, 'fit', 2, cbs=[GrowWidth(stages=2), Stop()])
    return learn

class Named(nn.Sequential): growth = 32 # as DenseNets have it

class Shared(nn.Module):
    "A residual block whose last layer may belong to others, too"
    def __init__(self, shared):
        super().__init__()
        self.own, self.shared = nn.Linear(64, 64), shared
    def forward(self, x): return x+self.shared(self.own(x).relu())

def sharing():
    one = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), nn.Sequential(*[Shared(one) for _ in range(4)]), nn.Linear(64, 10))

width = [
    ('other channels than were said', lambda: wider(1., lambda keep: {n:2 for n in keep}), 'where 2 are expected'),
    ('a smaller width', lambda: wider(.25), 'only adds'),
    ('a width above 1', lambda: wider(1.5), r'in \(0, 1\], got 1.5'),
    ('a cut model cut again', lambda: start_narrow(*narrow()[:2], .5), 'is this the model of `graph`'),
    ('a part that is not there', lambda: start_narrow(*narrow()[:2], .5, 'body'), "submodule 'body' is not in"),
    ('copies that do not fit', lambda: wider(.75, init='bert2bert', of=narrow_vit), 'no multiple'),
]

depth = [
    ('no depth', lambda: start_shallow(*shallow()[:2], 0), r'depth .* \(0, 1\], got 0'),
    ('a depth above 1', lambda: deeper(2), r'depth .* \(0, 1\], got 2'),
    ('a shallow model cut again', lambda: start_shallow(*shallow()[:2], .5), 'whole model'),
    ('a smaller depth', lambda: deeper(.1), 'only adds'),
    ('other blocks than were said', lambda: deeper(1., {'blocks':2}), 'keep says 2'),
    ('stages of another model', lambda: deeper(1., {}), 'is this the model'),
    ('no place', lambda: deeper(1., place='top'), "'insert', 'stack' or a function, got 'top'"),
    ('a place that loses copies', lambda: deeper(1., place=lambda b,c: b), 'every block and every copy'),
    ('an average of another model', lambda: deeper(1., ema=other_ema()), 'restart'),
    ('an optimizer of another model', lambda: deeper(1., opt=foreign()), 'none of the parameters'),
    ('an optimizer of another model, cutting', lambda: cut_with(foreign()), 'none of the parameters'),
    ('an average without half-life', lambda: ema(), 'one of half_life and stage'),
    ('an average with two', lambda: ema(half_life=1, stage=1), 'one of half_life and stage'),
    ('a half-life of 0', lambda: ema(half_life=0), 'half_life is a positive number of steps, got 0'),
    ('a negative stage', lambda: ema(stage=-5), 'stage is a positive number of steps, got -5'),
]

plans = [
    ('sizes that do not rise', lambda: StagePlan((.5,.5,1.), (0,.2,.5)), 'rising'),
    ('a plan that ends small', lambda: StagePlan((.5,.9), (0,.2)), 'end with 1'),
    ('nothing asked for', lambda: plan_stages(None), 'a speedup, a number of stages'),
    ('no speed-up', lambda: plan_stages(None, speedup=.9), 'above 1'),
    ('one stage', lambda: plan_stages(None, stages=1), 'from 2'),
    ('neither width nor depth', lambda: plan_stages(None, stages=2, by='x'), "'width' or 'depth', got 'x'"),
    ('a start at full size', lambda: plan_stages(None, stages=2, start=1), 'start is a share'),
    ('a half-grown model', lambda: plan_stages(half_grown(), stages=2), 'in the middle of growing'),
    ('nothing measured', lambda: uniform_plan(.5, 2).speedup(), 'nothing was measured'),
    ('a name that is taken, planned', lambda: plan_stages(learner(Named(*net())), stages=2), '`growth` of its own'),
]

callbacks = [
    ('a start of 0', lambda: GrowWidth(start=0), 'start is a share'),
    ('a start in words', lambda: GrowWidth(start='half'), 'start is a share'),
    ('two and a half stages', lambda: GrowWidth(stages=2.5), 'whole number from 2'),
    ('no init', lambda: GrowWidth(init='best'), "'orthogonal'"),
    ('a rise over all of it', lambda: GrowWidth(rewarm=1.), r'rewarm: a share of the steps in \[0, 1\).*got 1.0'),
    ('a plan and stages', lambda: GrowDepth(stages=3, plan=StagePlan((.5,1.), (0.,.5), by='depth')), 'either a plan'),
    ('more stages than epochs', lambda: fit(GrowWidth(stages=4)), '4 stages do not fit into 3 epoch'),
    ('widths that are the same', lambda: fit(GrowWidth(start=.97)), 'round to the same channels'),
    ('depths that are the same', lambda: fit(GrowDepth(stages=5), n=9, model=deep()), 'round to the same blocks'),
    ('a first stage without a step', lambda: fit(GrowWidth(plan=StagePlan((.5,1.), (0,.001)))), 'has no step'),
    ('a last stage without a step', lambda: fit(GrowWidth(plan=StagePlan((.5,1.), (0,.999)))), 'has no step'),
    ('width beside depth', lambda: fit(GrowDepth(), GrowWidth()), 'in one fit'),
    ('copies that do not fit a plan', lambda: fit(GrowWidth(init='bert2bert')), 'no multiple'), # .5 to .75
    ('a part that is not there, in a fit', lambda: fit(GrowWidth(submodule='body')), "'body' is not in the model"),
    ('a name that is taken', lambda: fit(GrowWidth(), model=Named(*net())), '`growth` of its own'),
    ('a compiled model', lambda: fit(GrowWidth(), model=torch.compile(net(), backend='eager')), 'model is compiled'),
    ('depth in the middle of width', lambda: quietly(half_grown(), 'fit', 1, cbs=GrowDepth()), 'growing in width'),
    ('blocks that share weights', lambda: fit(GrowDepth(), model=sharing()), '1.0.shared.weight and 1.1.shared.weight'),
    ('nothing left to grow', lambda: learner().finish_growing(), 'not in the middle'),
]

seeds = [
    ('a core without an end', lambda: seeded_onion(core=1.), r'core: a share of the steps in \(0, 1\), got 1.0'),
    ('no skin', lambda: seeded_onion(skins=0), 'skins: a whole number from 1, got 0'),
    ('distillation in the core', lambda: seeded_onion(distill=.75), 'distill: a share of the steps from 0 to the 0.5'),
    ('a last part in the core', lambda: seeded_onion(finish=-.1), 'finish: a share of the steps'),
    ('weights above 1', lambda: seeded_onion(finish=.1, eps=2.), r'eps: a share in \(0, 1\], got 2.0'),
    ('a core of few colours', lambda: seeded_onion(dims='colour'), "'colour' is no kind of elastic dimension"),
    ('an init that is none', lambda: NewSkins('noise'), 'init is one of'),
    ('zeros by number', lambda: NewSkins(zero_last=1), 'zero_last: True or False, got 1'),
]

ERRORS = width+depth+plans+callbacks+seeds
