"""Recipes for a network and the networks inside it, on CIFAR-10

Every run is a row of results/shrink.jsonl, and a restart skips it.

python benchmarks/shrink.py [--only lr bignas start ...] [--seeds 0 1 2] [--list]
"""
import copy, sys, time
from dataclasses import replace
from functools import partial
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import no_random
from torch import nn
from elastic_nets.shrink import methods
from elastic_nets.shrink.methods import zero_last_bn
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.evaluate import evaluate_subnets, mean_pareto_accuracy, sample_buckets, score_supernet
from elastic_nets.zoo.data import MemoryData, SplitLoaders, cifar_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from common import CPUMixed, Job, Lean, main, optimizer, results, rows, set_seed

path, gpu = results/'shrink.jsonl', torch.cuda.is_available()

COMPARED = ('full','smallest','delayed_shrinking','bignas','progressive_shrinking','compofa')
ALONE = ('full','smallest') # a network by itself
# epochs in the papers' ratios, 270 : 400 : 605 : 330, and where learning rates are searched
EPOCHS = dict(full=4, smallest=4, delayed_shrinking=4, bignas=6, progressive_shrinking=9, compofa=5)
SHORT = dict(full=2, smallest=2, delayed_shrinking=2, bignas=3, progressive_shrinking=4, compofa=2)
LRS = (.03,.08,.2)
WATCH = 2000 # validation pictures for the full network around the start of shrinking
# per: candidates in a bucket, twice
BASE = dict(net='resnet', n_train=20_000, bs=64, mom=.9, wd=5e-4, options={}, per=2)
MOBILE = dict(BASE, net='mobilenet', n_train=45_000, bs=256, wd=3e-5, kernels=[7])
DEPS = dict(warmup=150/270, ramp=5/270) # as the paper's runs
OPTIONS = dict(delayed_shrinking=DEPS)
WIDTHS = (.5,.75,1.)
DEPTHS = dict(layer1=(1,2,3), layer2=(0,1,2), layer3=(0,1,2)) # one to three blocks in every stage

# Networks and their spaces

def tied(space):
    "The part of `space` where widths of a stage follow its depth, as in CompOFA; the stem goes with the first stage"
    given = dict(space.given)
    for name,widths in space.width.items():
        if ('width',name) in given: continue
        stage = next((s for s in space.depth if name.startswith(f'{s}.')), next(iter(space.depth)))
        given['width',name] = ('depth',stage), {d:(w,) for d,w in zip(space.depth[stage], widths)}
    return replace(space, given=given)

def network(c):
    "The largest network of configuration `c`, and the space that its recipe trains"
    if c['net']=='mobilenet': model,space = ofa_mobilenetv3(10, img=32, kernels=tuple(c['kernels']))
    else:
        model = resnet_cifar(20)
        space = Supernet(copy.deepcopy(model), torch.randn(2,3,32,32), WIDTHS, DEPTHS).space
    return model, tied(space) if c['recipe']=='compofa' else space

def fresh(model):
    "Weights of an extracted network, drawn anew for its size"
    for m in model.modules():
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
        elif isinstance(m, nn.Linear): m.reset_parameters()
    return model

def fewer(dl, n):
    "Every so many-th picture, so that there are about `n`"
    data, every = dl.dataset, len(dl.dataset)//n
    return dl.new(MemoryData(data.x[::every], data.y[::every], data.vocab))

def learner(c):
    "A learner for configuration `c`; its seed says weights, data and order"
    set_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cuda' if gpu else 'cpu')
    if 'few' in c: dls = SplitLoaders(dls.train, *[fewer(dl, n) for dl,n in zip((dls.valid, dls.test), c['few'])])
    model,space = network(c)
    if c['recipe']=='smallest':
        sn = Supernet(model, torch.randn(2,3,32,32), space=space)
        model = fresh(sn.extract(sn.space.min))
    mixed = [CPUMixed()] if gpu or c['net']=='resnet' else [] # depthwise layers are slow in bfloat16 on a processor
    learn = Learner(dls, model, metrics=accuracy, opt_func=optimizer(c), wd=c['wd'],
                    moms=(c['mom'],)*3, cbs=[*mixed, ChannelsLast(), Lean()])
    if c['recipe'] not in ALONE: learn.to_supernet(space=space)
    if c['recipe']=='bignas': zero_last_bn(learn.supernet)
    return learn

# Training

def bf16(): return torch.autocast('cuda' if gpu else 'cpu', dtype=torch.bfloat16)

class Nets(Callback):
    "The networks of every step, and how often a trained teacher was asked"
    order,run_valid = 90,False
    def before_fit(self): self.nets,self.asked = [],0
    def after_batch(self):
        cb = self.onion_training
        self.nets.append(cb.nets)
        self.asked += cb.recipe.gradient.target=='teacher' and not cb.plan.teach

    def passes(self, sn):
        "Networks that went forward and backward, and the same weighed by MACs; a teacher's forward alone is a third"
        macs = {s:sn.macs(s) for s in {s for nets in self.nets for s in nets}}
        weighed = sum(macs[s] for nets in self.nets for s in nets)/sn.macs(sn.space.max)
        return dict(passes=sum(map(len, self.nets)), full_passes=round(weighed+self.asked/3))

class Watch(Callback):
    """Accuracy of the full network on some validation pictures,
    every twelfth of an epoch from half an epoch before step `at` to a whole one after it"""
    order,run_valid = 95,False
    def __init__(self, share): self.share,self.found,self.seconds,self.cpu = share,[],0.,0.

    def before_fit(self):
        n = len(self.dls.train)
        self.at = round(self.share*self.n_epoch*n)
        self.steps = {self.at+round(i*n/12) for i in range(-6,13)} if 0<self.at<self.n_epoch*n else ()
        with no_random(): # whose random numbers come back
            self.batches = [b for b,_ in zip(self.dls.valid.new(bs=500), range(WATCH//500))] if self.steps else []

    def after_batch(self):
        taken = self.epoch*len(self.dls.train)+self.iter+1 # steps
        if taken not in self.steps: return
        wall,processor = time.perf_counter(), time.process_time()
        sn = getattr(self.learn, 'supernet', None)
        assert sn is None or sn.subnet==sn.space.max
        self.found.append([taken-self.at, round(100*self.accuracy(), 2)])
        self.seconds += time.perf_counter()-wall
        self.cpu += time.process_time()-processor

    def accuracy(self):
        self.model.eval()
        with torch.no_grad(), bf16():
            hits = [(self.model(x).argmax(1)==y).float().mean().item() for x,y in self.batches]
        self.model.train()
        return float(np.mean(hits))

def watch_of(c):
    "Where the full network is watched: where shrinking starts, in runs that are not a search"
    starts = dict(delayed_shrinking=c['options'].get('warmup', 0), full=DEPS['warmup'])
    watched = (gpu or c['net']=='resnet') and not c['search']
    return Watch(starts.get(c['recipe'], 0) if watched else 0)

def recipe_of(c):
    "The recipe of configuration `c`; its `target` is another one than published, if it has one"
    recipe = getattr(methods, c['recipe'])(**c['options'])
    return replace(recipe, gradient=replace(recipe.gradient, target=c['target'])) if 'target' in c else recipe

def train(c):
    "One run: what it took, and what its networks are worth"
    learn, watch, nets = learner(c), watch_of(c), Nets()
    onion = c['recipe'] not in ALONE
    cbs = []
    if onion: cbs = [OnionTraining(recipe_of(c), seed=c['seed'], watch=(), estimate=False), nets]
    wall,processor = time.perf_counter(), time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'], pct_start=.1, cbs=[*cbs, watch])
    if gpu: torch.cuda.synchronize()
    wall = time.perf_counter()-wall-watch.seconds
    processor = time.process_time()-processor-watch.cpu
    n = c['epochs']*len(learn.dls.train)
    passes = nets.passes(learn.supernet) if onion else {}
    return dict(judge(learn, c), seconds=round(wall,1), cpu_seconds=round(processor,1),
                watch_seconds=round(watch.seconds,1), **(dict(gpu=True) if gpu else {}),
                steps=len(nets.nets) if onion else n, of_steps=n, **passes, around=watch.found)

# What networks are worth

def candidates(learn, c):
    "What there is to choose from: the same for all recipes, of which CompOFA has a part"
    sn, per = learn.supernet, c['per']
    return sum(sample_buckets(sn, per, space=tied(sn.space))+sample_buckets(sn, per), [])

def percent(v): return None if v!=v else round(100*float(v), 2)

def judge(learn, c):
    "What the networks of a learner are worth, with all its data and in bf16 by `score` alone"
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, (Lean, CPUMixed))])
    return score(learn, c)

def score(learn, c):
    "Percent of right answers: chosen on validation, reported on test; in a search on validation alone"
    with bf16(), learn.no_bar():
        if getattr(learn, 'supernet', None) is None: return score_alone(learn, c)
        return score_search(learn, c) if c['search'] else score_family(learn, c)

def score_alone(learn, c):
    valid = percent(learn.validate(dl=learn.dls.valid)[1])
    return dict(valid=valid) if c['search'] else dict(valid=valid, test=percent(learn.validate(dl=learn.dls.test)[1]))

def score_search(learn, c):
    sn = learn.supernet
    found = evaluate_subnets(learn, [sn.space.min, sn.space.max, *candidates(learn, c)])
    return dict(valid=percent(mean_pareto_accuracy(found, sn.macs(sn.space.min), sn.macs(sn.space.max))))

def score_family(learn, c):
    s = score_supernet(learn, learn.dls.test, candidates(learn, c))
    def macs(r): return None if r.macs!=r.macs else int(r.macs)
    def listed(found): return [[macs(r), percent(r.valid), percent(r.test)] for r in found.itertuples()]
    smallest,*buckets,largest = listed(s.chosen)
    return dict(test=percent(s.mean), smallest=smallest, buckets=buckets, largest=largest, front=listed(s.front))

# Configurations

def alike(c): return c['net'], c['recipe'] # a learning rate is searched once for these

def best_lr(c):
    "The learning rate that was best on validation; None where the search is not finished"
    found = {r['config']['lr']:r['valid'] for r in rows(path) if r['name']=='lr' and alike(r['config'])==alike(c)}
    return max(found, key=found.get) if {*LRS}<={*found} else None

def new(recipe, base=BASE, **kw):
    "A configuration of a recipe"
    defaults = dict(recipe=recipe, search=False, epochs=EPOCHS[recipe], options=OPTIONS.get(recipe, {}))
    return dict(base, **{**defaults, **kw})

def search(base):
    "Learning rates; every recipe has one before any has two"
    base = dict(base, per=1, n_train=min(base['n_train'], 20_000))
    for lr in LRS:
        for n in COMPARED: yield 'lr', new(n, base, search=True, epochs=SHORT[n], lr=lr, seed=100)

def with_lr(name, c):
    "A configuration with its learning rate; one without waits"
    lr = best_lr(c)
    if lr is not None: yield name, dict(c, lr=lr)
    else: print(f"{name}: no learning rate for {c['net']}, {c['recipe']} yet; run --only lr", file=sys.stderr)

def ablations(seed):
    "Figure 7 of DepS: its name and what is run"
    deps = partial(new, 'delayed_shrinking', seed=seed)
    yield 'no epsilon', deps(options=dict(DEPS, ramp=0., eps0=1.))
    for warmup in (.25,.5,.75): yield 'start', deps(options=dict(DEPS, warmup=warmup))
    yield 'in place', deps(options=dict(warmup=0., ramp=0.), epochs=3) # equal seconds
    yield 'longer ramp', deps(options=dict(DEPS, ramp=.2)) # 250 steps; 5 of 270 epochs: 3,000 on ImageNet, 23 here

def mobile_seed():
    "One shortened seed of the papers' own space, at the learning rates of the ResNet"
    for n in COMPARED:
        few = dict(MOBILE, n_train=1_250, bs=32, few=[500,1000], per=1) # few: pictures to choose and to report by
        c = new(n, few, seed=0, epochs=SHORT[n])
        for name,found in with_lr('mobilenet', dict(c, net='resnet')): yield name, dict(c, lr=found['lr'])

def configs(seeds):
    "Name and configuration of each run, in order"
    if gpu:
        yield from search(MOBILE)
        for base in (MOBILE, dict(MOBILE, kernels=[3,5,7])):
            for s in seeds:
                for n in COMPARED: yield from with_lr(n, new(n, base, seed=s))
        return
    yield from search(BASE)
    for s in seeds:
        for n in COMPARED: yield from with_lr(n, new(n, seed=s))
    for s in seeds:
        for name,c in ablations(s): yield from with_lr(name, c)
    yield from mobile_seed()

if __name__=='__main__': main(__doc__, shrink=Job(path, configs, train))
