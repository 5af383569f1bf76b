"""What a card can say in a quarter of an hour: times of steps alone on it, then runs in many processes side by side

It works from a copy without git or network. Every row is written when it is made, most important first; everything
stops in time; a restart skips what is there. On a processor `--tiny` tries all of it with small networks and digits.

python benchmarks/gpu_evidence.py [--minutes 11] [--tables 150] [--workers 12] \
    [--out benchmarks/results/gpu_evidence.jsonl] [--tiny]
"""
import argparse, os, subprocess, sys, time, traceback
from functools import partial
from pathlib import Path
import timm, torch, torchvision
from elastic_nets.zoo.data import MemoryData, SplitLoaders, cifar_dls, digits_dls
from elastic_nets.zoo.models import deeplabv3plus, resnet_cifar
from elastic_nets.zoo.spaces import ofa_mobilenetv3
import grow, shrink, shrink_cost, small, trials
from common import optimizer, results, rows, write_row
from evidence import Kind, run_next
from grow_steps import FORMATS, Net, measure
from trials import DEVICE, FAMILY, GROWTH, rate_runs, search

OUT = results/'gpu_evidence.jsonl'
LEAST = 20 # seconds before the end, from which no run is begun
BF16 = 'bf16 channels_last'

# Times of steps and peak memory: one network after the other, alone on the card

def resnet20(width, bs): return Net(partial(resnet_cifar, 20, width=width), bs, 32, 'width')

NETS = {
    'ResNet-50, 224 pixels': Net(torchvision.models.resnet50, 256, 224, 'width'),
    'ResNet-101, 224 pixels': Net(torchvision.models.resnet101, 192, 224, 'width'),
    'DeiT-B, 224 pixels': Net(partial(timm.create_model, 'deit_base_patch16_224'), 128, 224, 'depth'),
    'DeepLabV3+ R101 backbone': Net(partial(deeplabv3plus, 'resnet101', n_classes=19), 16, 513, 'width'),
    'ResNet-20 base 32, batch 512': resnet20(32, 512),
    'ResNet-20 base 96, batch 1024': resnet20(96, 1024),
    'ResNet-56, batch 1024': Net(partial(resnet_cifar, 56), 1024, 32, 'width'),
}
SPACES = {
    'ResNet-20 space, batch 256': (shrink_cost.resnet_space, 256, 32),
    'ResNet-20 space, batch 1024': (shrink_cost.resnet_space, 1024, 32),
    'MobileNetV3 space, 224 pixels': (partial(ofa_mobilenetv3, kernels=(7,)), 128, 224),
}
TINY_NETS = {'ResNet-8, tiny': Net(partial(resnet_cifar, 8, width=8), 4, 32, 'width')}
TINY_SPACES = {'ResNet-20 space, tiny': (shrink_cost.resnet_space, 4, 32)}

def table_of(net, bs, what, fmt=BF16, **kw):
    return 'steps', dict(what=what, net=net, bs=bs, format=fmt, gpu=torch.cuda.is_available(), **kw)

def tables(tiny):
    "Name, configuration and a function that makes the row"
    nets, spaces, rounds = (TINY_NETS, TINY_SPACES, 1) if tiny else (NETS, SPACES, 3)
    def sizes(name, fmt=BF16, opt='fastai'):
        net, part = nets[name], 'backbone' if 'backbone' in name else ''
        found = measure(net, part, FORMATS[fmt], rounds, DEVICE, optimizer(dict(opt=opt, mom=.9)))
        return dict(sizes=found)
    def kinds(name): return dict(kinds=shrink_cost.steps(spaces[name], BF16, rounds), rounds=rounds)
    networks = shrink_cost.NETWORKS[:1] if tiny else shrink_cost.NETWORKS
    def peaks(name): return dict(mb={k:shrink_cost.peak(spaces[name], BF16, k, 'sum') for k in networks})
    small = [name for name,net in nets.items() if net.px==32] # what the runs below train
    def table(name, opt):
        net = nets[name]
        return *table_of(name, net.bs, 'sizes', by=net.by, opt=opt), partial(sizes, name, opt=opt)
    for name in small: yield table(name, 'fastai')
    for name,net in spaces.items(): yield *table_of(name, net[1], 'recipes'), partial(kinds, name)
    for name in small: yield table(name, 'fused')
    for name in nets:
        if name not in small: yield table(name, 'fastai')
    for name in [*spaces][:1]: yield *table_of(name, spaces[name][1], 'peak'), partial(peaks, name)
    for name in [*nets][:1]:
        yield *table_of(name, nets[name].bs, 'sizes', 'fp32', by='width', opt='fastai'), partial(sizes, name, 'fp32')

def measure_tables(a):
    "What there is time for"
    for name,c,make in tables(a.tiny):
        if time.time()>a.until: return
        try:
            with write_row(a.out, name, c) as row:
                if row is None: continue
                begin = time.perf_counter()
                row.update(make())
                row['all'] = round(time.perf_counter()-begin, 1)
        except Exception: traceback.print_exc() # the next may do
        if torch.cuda.is_available(): torch.cuda.empty_cache()

# Runs

TINY = dict(n_train=64, bs=32, epochs=2)
LARGE = dict(GROWTH, n_train=45_000, epochs=30, bs=512, opt='fused', wd=5e-4)
FAMILIES = dict(FAMILY, n_train=45_000, bs=512, opt='fused', wd=5e-4, per=1)
RATES = dict(growth=(.2,.4,.8), family=(.2,.4,.8))
LENGTHS = dict(full=30, smallest=30, delayed_shrinking=30, seeded_onion=30, bignas=44, progressive_shrinking=67,
               compofa=37)
# those of most verdicts
RECIPES = dict(full={}, delayed_shrinking={}, bignas={}, progressive_shrinking={}, seeded_onion={})
MORE = dict(hard_delayed_shrinking=dict(target='hard'), hard_bignas=dict(target='hard'), smallest={}, compofa={})

SMALL = dict(small.BASE, bs=512, epochs=30, opt='fused', wd=5e-4, fmt=BF16) # seconds

def small_runs(a):
    "A ResNet-8 with many seeds: how new channels begin, and what a high rate does"
    yield from small.growth_search(a.out, 'cycle', SMALL)
    for s in small.SEEDS: yield from small.init_runs(a.out, s, SMALL)
    for s in a.seeds: yield from small.high_runs(a.out, s, SMALL)

def growth_base(tiny): return dict(LARGE, **TINY, net=8, width=8) if tiny else LARGE
def growth_search(tiny): return dict(growth_base(tiny), epochs=1 if tiny else 12, seed=100)

def growth_runs(a, seed):
    "Dense and grown for equal epochs, and for equal steps of the full size, by MACs and a little more"
    lr = search(a.out, 'lr', growth_search(a.tiny), a.rates['growth'], not a.tiny)[1]
    if lr is None: return
    dense = dict(growth_base(a.tiny), lr=lr, seed=seed)
    grown = dict(dense, plan=grow.PLAN, init='orthogonal')
    yield 'dense', dense
    yield 'plan', grown
    if a.tiny: return
    yield 'plan, 45 epochs', dict(grown, epochs=45)
    yield 'dense, 20 epochs', dict(dense, epochs=20)

def growth_options(a, seed):
    "Other plans, rates, states, inits and sizes of pictures, and growth in the flat part of a schedule"
    lr = search(a.out, 'lr', growth_search(a.tiny), a.rates['growth'], not a.tiny)[1]
    if lr is None: return
    dense = dict(growth_base(a.tiny), lr=lr, seed=seed, **(dict(epochs=3) if a.tiny else {}))
    plan = dict(plan=grow.PLAN, init='orthogonal')
    names = ['auto','rewarmed, new channels alone','smaller pictures too'] if a.tiny else small.OPTIONS
    for name in names: yield name, dict(dense, **{**plan, **small.OPTIONS[name]})
    if a.tiny: return
    for init in small.INITS[1:]: yield init, dict(dense, plan=grow.PLAN, init=init)
    flat = dict(dense, schedule='flat', lr=lr/2)
    yield 'flat, dense', flat
    yield 'flat', dict(flat, **plan)
    yield 'flat, late doubling', dict(flat, plan=small.LATE, init='orthogonal')
    yield 'smaller pictures, dense', dict(dense, sizes=small.SIZES)

def probes():
    "Why a wide network did not come back from growth at a high rate: one thing changed at a time"
    wide = dict(GROWTH, width=96, bs=1024, epochs=15, lr=.8, wd=5e-4, plan=grow.PLAN, init='orthogonal')
    for name,change in (('as it was',{}), ('contiguous',dict(fmt='bf16')), ('state forgotten',dict(carry=False)),
                        ('lower rate',dict(lr=.2)), ('variance',dict(init='variance')),
                        ('half the rate',dict(lr=.4)), ('dense',dict(plan=None, init=None)),
                        ('rewarmed',small.OPTIONS['rewarmed']), ('half as long',dict(init='half'))):
        yield f'probe, {name}', dict(wide, **change)

def family_run(name, tiny, **kw):
    "A configuration without a rate"
    recipe = name.removeprefix('hard_')
    epochs = 2 if tiny else kw.pop('epochs', LENGTHS[recipe])
    options = dict(core=.5, init='variance') if recipe=='seeded_onion' else shrink.OPTIONS.get(recipe, {})
    base = dict(FAMILIES, **TINY, few=[32,32]) if tiny else FAMILIES
    own = dict(search=False, recipe=recipe, options=options, **{**RECIPES, **MORE}[name], epochs=epochs)
    return dict(base, **{**own, **kw})

def family_search(name):
    epochs = LENGTHS[name.removeprefix('hard_')]//3
    return family_run(name, False, search=True, seed=100, epochs=epochs, n_train=20_000)

def family_rates(a, names):
    for name in names: yield from rate_runs(a.out, 'lr', family_search(name), a.rates['family'])

def family_runs(a, names, seed):
    "Those whose rate is known; a tiny one needs none"
    for name in names:
        lr = .1 if a.tiny else search(a.out, 'lr', family_search(name), a.rates['family'])[1]
        if lr is not None: yield name, dict(family_run(name, a.tiny, seed=seed), lr=lr)

def configs(a):
    "(kind, name, configuration), most important first; what waits for a learning rate comes when that is there"
    def of(kind, runs): return ((kind, name, c) for name,c in runs)
    if not a.tiny: yield from of('small', small_runs(a))
    yield from of('growth', rate_runs(a.out, 'lr', growth_search(a.tiny), a.rates['growth'], not a.tiny))
    for s in a.seeds: yield from of('growth', growth_runs(a, s))
    if not a.tiny:
        yield from of('growth', probes())
        yield from of('family', family_rates(a, a.recipes))
    for s in a.seeds: yield from of('family', family_runs(a, a.recipes, s))
    if a.tiny:
        yield from of('growth', growth_options(a, 0))
        return
    yield from of('family', family_rates(a, MORE))
    for s in a.seeds:
        yield from of('growth', growth_options(a, s))
        yield from of('family', family_runs(a, MORE, s))

# A worker

def alike(c): return tuple(c.get(k) for k in ('net','width','recipe','bs','target'))

def fits(a, c):
    "Is there time for this run, as far as rows of the same kind tell?"
    left = a.until-time.time()
    like = [r['all']/r['config']['epochs'] for r in rows(a.out) if 'epochs' in r['config'] and 'all' in r
            and alike(r['config'])==alike(c)]
    return left>LEAST and (not like or left>1.1*max(like)*c['epochs'])

def work(a):
    "Run after run, until nothing is left to do or no time"
    torch.set_num_threads(1)
    if a.tiny: grow.cifar_dls = trials.cifar_dls = shrink.cifar_dls = tiny_dls
    growth, family = Kind(a.out, trials.growth), Kind(a.out, trials.family)
    kinds = dict(small=growth, growth=growth, family=family)
    failed = set()
    while time.time()<a.until:
        if run_next((x for x in configs(a) if fits(a, x[2])), kinds, failed): continue
        done = [r['config'] for r in rows(a.out)]
        if all(c in done or (kind,str(c)) in failed for kind,_,c in configs(a)): return
        time.sleep(1) # others are at it, and more may follow from what they find

def tiny_dls(bs, n_train, seed, device=None):
    "scikit-learn's digits in the place of CIFAR-10"
    dls = digits_dls(bs=bs, size=32, n_in=3, seed=seed, device=device)
    def few(dl, n, **kw): return dl.new(MemoryData(dl.dataset.x[:n], dl.dataset.y[:n], range(10), **kw))
    return SplitLoaders(few(dls.train, n_train, split_idx=0), few(dls.valid, 64), few(dls[2], 64))

# All of it

def serve(commands, until):
    "Processes side by side; those that are not done by then are stopped"
    env = dict(os.environ, OMP_NUM_THREADS='1')
    begun = [subprocess.Popen(c, env=env) for c in commands]
    try:
        while time.time()<until and any(p.poll() is None for p in begun): time.sleep(.2)
    finally:
        for p in begun:
            if p.poll() is None: p.kill()
        for p in begun: p.wait()

def settings(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--minutes', type=float, default=11)
    p.add_argument('--tables', type=float, default=150, help='seconds that times of steps may take; they come first')
    p.add_argument('--workers', type=int, default=12)
    p.add_argument('--out', type=Path, default=OUT)
    p.add_argument('--tiny', action='store_true', help='small networks and digits, for a try without a card')
    p.add_argument('--part', choices=['tables','work'], help=argparse.SUPPRESS)
    p.add_argument('--until', type=float, help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    a.seeds = [0] if a.tiny else [0,1,2]
    a.rates = dict(growth=(.1,)) if a.tiny else RATES
    a.recipes = ['delayed_shrinking'] if a.tiny else [*RECIPES]
    return a

def main(argv=None):
    a = settings(argv)
    if a.part: return dict(tables=measure_tables, work=work)[a.part](a)
    begin = time.time()
    until = begin+60*a.minutes-5
    def command(part, at):
        options = ['--part', part, '--until', str(at), '--out', str(a.out), *(['--tiny'] if a.tiny else [])]
        return [sys.executable, '-W', 'ignore', __file__, *options]
    if not a.tiny: cifar_dls(n_train=512, device='cpu') # decoded once, for all that follow
    of_tables = min(begin+a.tables, until)
    serve([command('tables', of_tables)], of_tables+15)
    print(f'{time.time()-begin:.0f} s: tables are there', flush=True)
    serve([command('work', until) for _ in range(a.workers)], until)
    print(f'{time.time()-begin:.0f} s: {len(rows(a.out))} rows in {a.out}', flush=True)

if __name__=='__main__': main()
