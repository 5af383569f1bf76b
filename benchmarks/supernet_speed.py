"""What a supernet costs in time, as ratios of interleaved pairs; writes results/supernet_speed.json and docs/speed.md

python benchmarks/supernet_speed.py [--pairs 30] [--parts pairs tracing] [--threads 2] [--out FILE] [--render]
"""
import argparse, copy, datetime, functools, gc, json, math, os, platform, random, statistics, subprocess, sys, time
from pathlib import Path
import torch, torchvision
from torch import nn
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.subnets.supernet import Supernet

root = Path(__file__).resolve().parent.parent
results, page = root/'benchmarks/results/supernet_speed.json', root/'docs/speed.md'
WIDTHS, FULL, ACTIVE, SECONDS, PASSES = (.25,.5,.75,1.), 1.03, 1.08, 3, 5 # the targets

def stage(c=512, n=4):
    "`n` convolutions of `c` channels each"
    return nn.Sequential(*[l for _ in range(n) for l in (nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU())],
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))

nets = {'ResNet-20, batch 128, 32 pixels': (functools.partial(resnet_cifar, 20), (128,3,32,32)),
        'MobileNetV2, batch 64, 64 pixels': (functools.partial(torchvision.models.mobilenet_v2, num_classes=10), (64,3,64,64)),
        'four 3x3 convolutions of 512 channels, batch 8, 14 pixels': (stage, (8,512,14,14))}

def step(model, xb):
    "Seconds of one forward and backward; gradients add up in place, as they do in a step of several networks"
    t = time.perf_counter()
    model(xb).square().mean().backward()
    return time.perf_counter()-t

def interval(xs):
    "Median with the 95 % interval that order statistics give; of fewer than 6 values, their range"
    xs, n = sorted(xs), len(xs)
    k = max([k for k in range(1, n//2+1) if sum(math.comb(n,i) for i in range(k))/2**n <= .025], default=1)
    return statistics.median(xs), xs[k-1], xs[n-k]

def compare(a, b, xb, pairs, rng):
    "Steps of `a` over steps of `b`, in pairs of random order"
    for m in (a,b): m.train(); step(m, xb); step(m, xb)
    ts = []
    gc.collect(); gc.disable()
    try:
        for _ in range(pairs):
            first = rng.random()<.5
            x, y = [step(m, xb) for m in ((a,b) if first else (b,a))]
            ts.append((x,y) if first else (y,x))
    finally: gc.enable()
    med, lo, hi = interval([x/y for x,y in ts])
    return dict(ratio=round(med,4), low=round(lo,4), high=round(hi,4), ms=round(1000*statistics.median(x for x,_ in ts),2), base_ms=round(1000*statistics.median(y for _,y in ts),2))

def time_pairs(pairs, seed):
    "Every network: the full supernet over the plain network, then active over extracted subnets"
    rng, res = random.Random(seed), []
    for name,(build,shape) in nets.items():
        torch.manual_seed(seed)
        plain, xb = build(), torch.randn(shape)
        sn = Supernet(copy.deepcopy(plain), xb, widths=WIDTHS)
        todo = [('full / plain', 1., plain, FULL)]+[('active / extracted', w, sn.extract(sn.space.uniform(width=w)), ACTIVE) for w in WIDTHS]
        for what,w,small,target in todo:
            with sn.active(sn.space.uniform(width=w)): r = compare(sn.model, small, xb, pairs, rng)
            res.append(dict(net=name, what=what, width=w, target=target, **r))
            print(f"{name:58s} {what:18s} {w:4} {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})  {r['base_ms']:.1f} ms", flush=True)
    return res

def time_tracing(seed, repeats=3):
    "Every model of the tests' zoo: seconds until it is a supernet, and the limit: 3 s, or 5 forward passes of a batch of 64"
    sys.path.insert(0, str(root/'tests'))
    from zoo import zoo
    res = []
    for name,case in zoo.items():
        m, xb, ts = case.model(seed), case.xb(64), []
        for _ in range(repeats):
            new = copy.deepcopy(m)
            t = time.perf_counter()
            Supernet(new, xb)
            ts.append(time.perf_counter()-t)
        with torch.no_grad():
            m(xb[:2])
            t = time.perf_counter()
            m(xb)
        f = time.perf_counter()-t
        res.append(dict(model=name, pixels=case.size, seconds=round(statistics.median(ts),3), slowest=round(max(ts),3), forward=round(f,3), limit=round(max(SECONDS, PASSES*f),2)))
        print(f"{name:40s} {res[-1]['seconds']:6.2f} s, limit {res[-1]['limit']:6.2f} s", flush=True)
    return res

def machine():
    "Where and with what this ran"
    info = Path('/proc/cpuinfo')
    cpu = next((l.split(':')[1].strip() for l in info.read_text().splitlines() if l.startswith('model name')), '') if info.exists() else ''
    git = lambda *a: subprocess.run(['git', *a], cwd=root, capture_output=True, text=True).stdout.strip()
    return dict(cpu=cpu or platform.processor() or platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(), torch=torch.__version__,
                torchvision=torchvision.__version__, python=platform.python_version(), commit=git('rev-parse', '--short', 'HEAD'),
                changed=bool(git('status', '--porcelain', '--', 'elastic_nets')), load=round(os.getloadavg()[0],2), date=datetime.date.today().isoformat())

def markdown(res):
    "The results as the page of the docs"
    m, ok = res['machine'], lambda x, y: 'yes' if x<=y else '**no**'
    s = f'''# Speed

> What a supernet costs in time

Measured by `python benchmarks/supernet_speed.py --pairs {res['pairs']}` on {m['cpu']}, {m['cores']} cores, {m['threads']} threads, float32, torch {m['torch']},
load {m['load']} before it began, commit {m['commit']}{' with changes' if m['changed'] else ''}, seed {res['seed']}, {m['date']}. This page is written by that command.
'''
    if 'ratios' in res: s += f'''
## A training step

Forward and backward, {res['pairs']} interleaved pairs: median ratio, with the 95 % interval from order statistics. *full / plain*: the supernet at full width over
the network it was made from. *active / extracted*: a subnet inside the supernet over the same subnet as a plain model.

| network | what | width | ratio | interval | plain, ms | target | kept |
|---|---|---|---|---|---|---|---|
'''+'\n'.join(f"| {r['net']} | {r['what']} | {r['width']} | {r['ratio']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {r['base_ms']:.1f} | {r['target']} | {ok(r['ratio'],r['target'])} |" for r in res['ratios'])+'\n'
    if 'tracing' in res: s += f'''
## Tracing

Seconds until a model is a supernet, check included: median of three. The limit is {SECONDS} seconds, or {PASSES} forward passes of a batch of 64 where that is more.

| model | pixels | seconds | one pass | limit | kept |
|---|---|---|---|---|---|
'''+'\n'.join(f"| {r['model']} | {r['pixels']} | {r['seconds']:.2f} | {r['forward']:.2f} | {r['limit']:.2f} | {ok(r['seconds'],r['limit'])} |" for r in res['tracing'])+'\n'
    return s

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pairs', type=int, default=30, help='pairs per ratio')
    p.add_argument('--parts', nargs='+', choices=('pairs','tracing'), default=('pairs','tracing'), help='what to measure')
    p.add_argument('--threads', type=int, default=os.cpu_count(), help='of torch')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', type=Path, default=results, help='JSON to write; the page of the docs is written from the default one only')
    p.add_argument('--render', action='store_true', help='measure nothing: write the page from the JSON')
    a = p.parse_args()
    if not a.render:
        torch.set_num_threads(a.threads)
        res = dict(machine=machine(), seed=a.seed, pairs=a.pairs)
        if 'pairs' in a.parts: res['ratios'] = time_pairs(a.pairs, a.seed)
        if 'tracing' in a.parts: res['tracing'] = time_tracing(a.seed)
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(res, indent=1)+'\n', encoding='utf-8')
    if a.out==results:
        page.parent.mkdir(exist_ok=True)
        page.write_text(markdown(json.loads(a.out.read_text(encoding='utf-8'))), encoding='utf-8')

if __name__ == '__main__': main()
