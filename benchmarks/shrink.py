"""Recipes for a network and the networks inside it, on CIFAR-10: every run is a row of results/shrink.jsonl, and a restart skips it

python benchmarks/shrink.py [--only lr bignas start ...] [--seeds 0 1 2] [--list]
"""
import copy, random, sys, time
from dataclasses import replace
from functools import partial
import numpy as np, torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import no_random
from torch import nn
from elastic_nets import recipes
from elastic_nets.zoo.data import MemoryData, SplitLoaders, cifar_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import zero_last_bn
from elastic_nets.use.evaluate import evaluate_subnets, mean_pareto_accuracy, sample_buckets, score_supernet
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from elastic_nets.subnets.supernet import Supernet
from common import CPUMixed, Lean, main, results, rows

path, gpu = results/'shrink.jsonl', torch.cuda.is_available()
EPOCHS = dict(full=4, smallest=4, delayed_shrinking=4, bignas=6, progressive_shrinking=9, compofa=5) # 270 : 400 : 605 : 330
SHORT = dict(full=2, smallest=2, delayed_shrinking=2, bignas=3, progressive_shrinking=4, compofa=2) # where learning rates are searched
LRS, WATCH = (.03,.08,.2), 2000 # learning rates; validation pictures for the full network around the start of shrinking
BASE = dict(net='resnet', n_train=20_000, bs=64, mom=.9, wd=5e-4, options={}, per=2) # per: candidates in a bucket, twice
MOBILE = dict(BASE, net='mobilenet', n_train=45_000, bs=256, wd=3e-5, kernels=[7])
DEPS = dict(warmup=150/270, ramp=5/270) # as the paper's runs
COMPARED = ('full','smallest','delayed_shrinking','bignas','progressive_shrinking','compofa')
OPTIONS = dict(delayed_shrinking=DEPS)
WIDTHS, DEPTHS = (.5,.75,1.), dict(layer1=(1,2,3), layer2=(0,1,2), layer3=(0,1,2)) # one to three blocks in every stage

def tied(space):
    "The part of `space` where the widths of a stage follow its depth, as in CompOFA; the stem goes with the first stage"
    given = dict(space.given)
    for n,ws in space.width.items():
        run = next((r for r in space.depth if n.startswith(f'{r}.')), next(iter(space.depth)))
        if ('width',n) not in given: given['width',n] = ('depth',run), {d:(w,) for d,w in zip(space.depth[run], ws)}
    return replace(space, given=given)

def network(c):
    "The largest network of configuration `c`, and the space that its recipe trains"
    name = c['recipe']
    if c['net']=='mobilenet':
        model,space = ofa_mobilenetv3(10, img=32, kernels=tuple(c['kernels']))
    else:
        model = resnet_cifar(20)
        space = Supernet(copy.deepcopy(model), torch.randn(2,3,32,32), WIDTHS, DEPTHS).space
    return model, tied(space) if name=='compofa' else space

def fresh(model):
    "Weights of an extracted network, drawn anew for its size"
    for m in model.modules():
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
        elif isinstance(m, nn.Linear): m.reset_parameters()
    return model

def learner(c):
    "A learner for configuration `c`; its seed says weights, data and order"
    random.seed(c['seed']); np.random.seed(c['seed']); torch.manual_seed(c['seed'])
    dls = cifar_dls(bs=c['bs'], n_train=c['n_train'], seed=c['seed'], device='cuda' if gpu else 'cpu')
    if few := c.get('few'): dls = SplitLoaders(dls.train, *[dl.new(MemoryData(dl.dataset.x[::len(dl.dataset)//n], dl.dataset.y[::len(dl.dataset)//n], dl.dataset.vocab)) for dl,n in zip((dls.valid, dls.test), few)])
    model,space = network(c)
    if c['recipe']=='smallest':
        sn = Supernet(model, torch.randn(2,3,32,32), space=space)
        model = fresh(sn.extract(sn.space.min))
    learn = Learner(dls, model, metrics=accuracy, opt_func=partial(SGD, mom=c['mom']), wd=c['wd'], moms=(c['mom'],)*3, cbs=[*([CPUMixed()] if gpu or c['net']=='resnet' else []), ChannelsLast(), Lean()]) # depthwise layers are slow in bfloat16 on a processor
    if c['recipe'] not in ('full','smallest'): learn.to_supernet(space=space)
    if c['recipe']=='bignas': zero_last_bn(learn.supernet)
    return learn

def bf16(): return torch.autocast('cuda' if gpu else 'cpu', dtype=torch.bfloat16)

class Nets(Callback):
    "The networks of every step, and how often a trained teacher was asked"
    order,run_valid = 90,False
    def before_fit(self): self.nets,self.asked = [],0
    def after_batch(self):
        cb = self.onion_training
        self.nets.append(cb.nets)
        self.asked += cb.recipe.gradient.target=='teacher' and not cb.moment.teach

class Watch(Callback):
    "Accuracy of the full network on some validation pictures, every twelfth of an epoch from half an epoch before step `at` to a whole one after it"
    order,run_valid = 95,False
    def __init__(self, share): self.share,self.found,self.seconds,self.cpu = share,[],0.,0.

    def before_fit(self):
        n = len(self.dls.train)
        self.at = round(self.share*self.n_epoch*n)
        self.steps = {self.at+round(i*n/12) for i in range(-6,13)} if 0<self.at<self.n_epoch*n else ()
        with no_random(): # whose random numbers come back
            self.batches = [b for b,_ in zip(self.dls.valid.new(bs=500), range(WATCH//500))] if self.steps else []

    def after_batch(self):
        i = self.epoch*len(self.dls.train)+self.iter+1 # steps taken
        if i not in self.steps: return
        t,cpu = time.perf_counter(),time.process_time()
        sn = getattr(self.learn, 'supernet', None)
        assert sn is None or sn.subnet==sn.space.max
        self.model.eval()
        with torch.no_grad(), bf16(): hits = [(self.model(x).argmax(1)==y).float().mean().item() for x,y in self.batches]
        self.model.train()
        self.found.append([i-self.at, round(100*float(np.mean(hits)), 2)])
        self.seconds += time.perf_counter()-t; self.cpu += time.process_time()-cpu

def candidates(learn, c):
    "What there is to choose from: the same for all recipes, of which CompOFA has a part"
    sn, per = learn.supernet, c['per']
    return sum(sample_buckets(sn, per, space=tied(sn.space))+sample_buckets(sn, per), [])

def score(learn, c):
    "Percent of right answers: chosen on validation, reported on test; in a search on validation alone"
    pc = lambda v: None if v!=v else round(100*float(v), 2)
    if getattr(learn, 'supernet', None) is None:
        with bf16(), learn.no_bar(): v,t = learn.validate(dl=learn.dls.valid)[1], None if c['search'] else learn.validate(dl=learn.dls.test)[1]
        return dict(valid=pc(v)) if c['search'] else dict(valid=pc(v), test=pc(t))
    sn = learn.supernet
    if c['search']:
        with bf16(), learn.no_bar(): table = evaluate_subnets(learn, [sn.space.min, sn.space.max, *candidates(learn, c)])
        return dict(valid=pc(mean_pareto_accuracy(table, sn.macs(sn.space.min), sn.macs(sn.space.max))))
    with bf16(), learn.no_bar(): s = score_supernet(learn, learn.dls.test, candidates(learn, c))
    listed = lambda t: [[None if r.macs!=r.macs else int(r.macs), pc(r.valid), pc(r.test)] for r in t.itertuples()]
    smallest,*buckets,largest = listed(s.chosen)
    return dict(test=pc(s.mean), smallest=smallest, buckets=buckets, largest=largest, front=listed(s.front))

def train(c):
    "One run: what it took, and what its networks are worth"
    learn = learner(c)
    onion = c['recipe'] not in ('full','smallest')
    watch = Watch(dict(delayed_shrinking=c['options'].get('warmup', 0), full=DEPS['warmup']).get(c['recipe'], 0) if (gpu or c['net']=='resnet') and not c['search'] else 0)
    nets = Nets()
    cbs = [OnionTraining(getattr(recipes, c['recipe'])(**c['options']), seed=c['seed'], watch=(), estimate=False), nets] if onion else []
    t,cpu = time.perf_counter(), time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'], pct_start=.1, cbs=[*cbs, watch])
    if gpu: torch.cuda.synchronize()
    t,cpu = time.perf_counter()-t-watch.seconds, time.process_time()-cpu-watch.cpu
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, (Lean, CPUMixed))])
    n, res = c['epochs']*len(learn.dls.train), {}
    if onion:
        sn, macs = learn.supernet, {}
        for s in {s for step in nets.nets for s in step}: macs[s] = sn.macs(s)
        res = dict(passes=sum(map(len, nets.nets)), full_passes=round(sum(macs[s] for step in nets.nets for s in step)/sn.macs(sn.space.max)+nets.asked/3)) # a forward alone is a third
    return dict(score(learn, c), seconds=round(t,1), cpu_seconds=round(cpu,1), watch_seconds=round(watch.seconds,1), **(dict(gpu=True) if gpu else {}), steps=len(nets.nets) if onion else n, of_steps=n, **res, around=watch.found)

def alike(c): return c['net'], c['recipe'] # a learning rate is searched once for these

def best_lr(c):
    "The learning rate that was best on validation; None where the search is not finished"
    found = {r['config']['lr']:r['valid'] for r in rows(path) if r['name']=='lr' and alike(r['config'])==alike(c)}
    return max(found, key=found.get) if {*LRS}<={*found} else None

def new(recipe, base=BASE, **kw): return dict(base, **{**dict(recipe=recipe, search=False, epochs=EPOCHS[recipe], options=OPTIONS.get(recipe, {})), **kw})

def search(names, base):
    for lr in LRS: # every recipe has one before any has two
        for n in names: yield 'lr', new(n, dict(base, per=1, n_train=min(base['n_train'], 20_000)), search=True, epochs=SHORT[n], lr=lr, seed=100)

def runs(name, cs):
    "Configurations with their learning rates; those without one wait"
    for c in cs:
        if (lr := best_lr(c)) is None: print(f"{name}: no learning rate for {c['net']}, {c['recipe']} yet; run --only lr", file=sys.stderr)
        else: yield name, dict(c, lr=lr)

def ablations(s):
    "Figure 7 of DepS: its name and what is run"
    deps = partial(new, 'delayed_shrinking', seed=s)
    yield 'no epsilon', deps(options=dict(DEPS, ramp=0., eps0=1.))
    for w in (.25,.5,.75): yield 'start', deps(options=dict(DEPS, warmup=w))
    yield 'in place', deps(options=dict(warmup=0., ramp=0.), epochs=3) # equal seconds
    yield 'longer ramp', deps(options=dict(DEPS, ramp=.2)) # 250 steps; 5 of 270 epochs are 3,000 on ImageNet and 23 here

def configs(seeds):
    "Name -> configurations, in the order in which they are run"
    if gpu:
        yield from search(COMPARED, MOBILE)
        for s in seeds:
            for n in COMPARED: yield from runs(n, [new(n, MOBILE, seed=s)])
        for s in seeds:
            for n in COMPARED: yield from runs(n, [new(n, dict(MOBILE, kernels=[3,5,7]), seed=s)])
        return
    yield from search(COMPARED, BASE)
    for s in seeds:
        for n in COMPARED: yield from runs(n, [new(n, seed=s)])
    for s in seeds:
        for n,c in ablations(s): yield from runs(n, [c])
    for n in COMPARED: # one shortened seed of the papers' own space, at the learning rates of the ResNet
        c = new(n, dict(MOBILE, n_train=1_250, bs=32, few=[500,1000], per=1), seed=0, epochs=SHORT[n]) # few: pictures to choose and to report by
        for _,r in runs('mobilenet', [dict(c, net='resnet')]): yield 'mobilenet', dict(c, lr=r['lr'])

if __name__=='__main__': main(__doc__, path, configs, train)
