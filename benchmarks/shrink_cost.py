"""Seconds of a training step of each recipe, in turn, on an idle machine, and peak memory for 2, 4 and 8 networks

A process of its own for each measure of memory; rows of results/shrink_cost.jsonl.

python benchmarks/shrink_cost.py [--only steps memory] [--rounds 31] [--threads 1]
"""
import argparse, gc, json, os, re, subprocess, sys
from functools import partial
from pathlib import Path
from statistics import median
import torch
import fastai.callback.all # noqa: F401, patches Learner
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from elastic_nets.shrink.choices import combine_avg
from elastic_nets.shrink.gradients import combine_sum
from elastic_nets.shrink.methods import bignas
from elastic_nets.shrink.recipe import Construct, Delayed, Gradient, Phase, Phases, Recipe
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from common import CPUMixed, Lean, results, wall_clock, write_row
from shrink import network

path, gpu = results/'shrink_cost.jsonl', torch.cuda.is_available()

def taught(k, *subspace):
    "A phase of once-for-all: `k` networks learn from a trained teacher"
    return Recipe(Construct(k), Gradient('teacher'), schedule=Phases((Phase(1, subspace, full=False),)))

def jointly(k, rule=combine_sum):
    "Delayed shrinking after its ramp"
    return Recipe(Construct(k), Gradient('distill', rule), schedule=Delayed(0., 0.))

KINDS = { # of steps
    'full': None,
    'sandwich': bignas(),
    'full and 3': jointly(4),
    'teacher and 2 depths': taught(2, ('width',-1)),
    'teacher and 4': taught(4),
}
resnet_space = partial(network, dict(net='resnet', recipe='bignas'))
NETS = {'ResNet-20 space': (resnet_space, 64, 32)} # network and space, batch, pixels
LARGE = {'ResNet-20 space': (resnet_space, 1024, 32), # on a GPU
         'MobileNetV3 space': (partial(ofa_mobilenetv3, kernels=(7,)), 128, 224)}
def of_name(name): return (LARGE if gpu else NETS)[name]
FORMATS = {'fp32': [], 'bf16 channels_last': [CPUMixed, ChannelsLast]}
NETWORKS, RULES = (2,4,8), dict(sum=combine_sum, avg=combine_avg)

# Time

class Start(Callback):
    order = -1000
    def before_batch(self): self.learn.seconds = -wall_clock()

class Stop(Callback):
    order = 1000
    def after_batch(self): self.learn.seconds += wall_clock()

def learner(net, fmt):
    "A learner with one batch of noise; `net` is a network and its space, batch, pixels"
    torch.manual_seed(0)
    build,bs,px = net
    model,space = build()
    data = [(torch.randn(3, px, px), i%10) for i in range(bs)]
    dls = DataLoaders(*[DataLoader(data, bs=bs) for _ in range(2)], device='cuda' if gpu else 'cpu')
    cbs = [Start(), Stop(), Lean(), *[cb() for cb in FORMATS[fmt]]]
    learn = Learner(dls, model, CrossEntropyLossFlat(), opt_func=partial(SGD, mom=.9), cbs=cbs)
    learn.to_supernet(space=space)
    return learn

def step(learn, recipe, i, teacher=None):
    "Seconds of a step of a recipe, all its callbacks included; `i` says which subnets"
    cbs = []
    if recipe:
        if recipe.gradient.target!='teacher': teacher = None
        cbs = [OnionTraining(recipe, seed=i, teacher=teacher, watch=(), estimate=False)]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=cbs)
    return learn.seconds

def steps(net, fmt, rounds):
    "Milliseconds of a step of every kind, and its ratio to the full network's in the same round: medians"
    learn = learner(net, fmt)
    teacher = learn.supernet.extract(learn.supernet.space.max).eval().requires_grad_(False)
    found = [{kind:step(learn, recipe, i, teacher) for kind,recipe in KINDS.items()} for i in range(rounds+2)]
    found = found[2:] # the first are slow
    def milliseconds(kind): return round(1000*median(f[kind] for f in found), 2)
    def ratio(kind): return round(median(f[kind]/f['full'] for f in found), 3)
    return {kind:[milliseconds(kind), ratio(kind)] for kind in KINDS}

# Memory

def resident(what):
    "Megabytes of this process: VmRSS now, VmHWM at most"
    return int(re.search(rf'{what}:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

def allocated(): return torch.cuda.memory_allocated()/2**20 if gpu else resident('VmRSS')
def most_allocated(): return torch.cuda.max_memory_allocated()/2**20 if gpu else resident('VmHWM')
def forget_most():
    "The highest value so far is forgotten"
    if gpu: torch.cuda.reset_peak_memory_stats()
    else: Path('/proc/self/clear_refs').write_text('5')

def peak(net, fmt, k, rule, n=4):
    "Megabytes at most in `n` steps of `k` networks, above what there is before the first"
    learn = learner(net, fmt)
    gc.collect()
    before = allocated()
    for i in range(n): step(learn, jointly(max(NETWORKS)), i) # all subnets there will be: compiled kernels stay
    forget_most()
    for i in range(n): step(learn, jointly(k, RULES[rule]), i)
    return round(most_allocated()-before, 1)

def alone(*args):
    """`peak` in a process of its own, where glibc hands back every large block at once,
    so that the resident size is what is in use"""
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536')
    command = [sys.executable, '-W', 'ignore', __file__, '--peak', json.dumps(args)]
    res = subprocess.run(command, capture_output=True, text=True, env=env)
    if res.returncode: raise RuntimeError(res.stderr)
    return float(res.stdout.split()[-1])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*', default=['steps','memory'])
    p.add_argument('--rounds', type=int, default=31)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--peak', type=json.loads, help=argparse.SUPPRESS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.peak: return print(peak(of_name(a.peak[0]), *a.peak[1:]))
    for name,(_,bs,px) in (LARGE if gpu else NETS).items():
        for fmt in FORMATS:
            c = dict(net=name, format=fmt, bs=bs, px=px, gpu=gpu)
            if 'steps' in a.only: write_steps(name, fmt, c, a)
            if 'memory' in a.only: write_memory(name, fmt, c)

def write_steps(name, fmt, c, a):
    with write_row(path, 'steps', dict(c, threads=a.threads)) as row:
        if row is not None: row.update(kinds=steps(of_name(name), fmt, a.rounds), rounds=a.rounds)

def write_memory(name, fmt, c):
    for rule in RULES:
        for k in NETWORKS:
            with write_row(path, 'memory', dict(c, k=k, rule=rule)) as row:
                if row is not None: row['mb'] = alone(name, fmt, k, rule)

if __name__=='__main__': main()
