"""What a supernet costs in time, as ratios of interleaved pairs; writes results/supernet_speed.json

python benchmarks/supernet_speed.py [--pairs 30] [--parts pairs tracing] [--threads 2] [--out FILE]
"""
import argparse, copy, datetime, gc, json, os, platform, random, sys, time
from functools import partial
from pathlib import Path
from statistics import median
import torch, torchvision
from torch import nn
from elastic_nets.channels.trace import trace_channels
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.subnets.supernet import Supernet
from common import COMMIT, processor, results, root
from report import median_interval

path = results/'supernet_speed.json'
WIDTHS = (.25,.5,.75,1.)
FULL, ACTIVE = 1.03, 1.08 # targets: ratios of a step
SECONDS, PASSES = 3, 5 # target: tracing takes at most so many seconds, or passes of a batch of 64

def stage(c=512, n=4):
    "`n` convolutions of `c` channels each"
    layers = [l for _ in range(n) for l in (nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))

# of each family of torchvision's classifiers the largest with at most some 300 million parameters
LARGE = '''convnext_large densenet161 efficientnet_b7 efficientnet_v2_l mnasnet1_3 mobilenet_v3_large regnet_x_32gf
    regnet_y_32gf resnet152 resnext101_64x4d shufflenet_v2_x2_0 squeezenet1_0 swin_b swin_v2_b vgg19_bn vit_l_16
    wide_resnet101_2'''.split()

NETS = { # name -> model, shape of a batch
    'ResNet-20, batch 128, 32 pixels': (partial(resnet_cifar, 20), (128,3,32,32)),
    'MobileNetV2, batch 64, 64 pixels': (partial(torchvision.models.mobilenet_v2, num_classes=10), (64,3,64,64)),
    'four 3x3 convolutions of 512 channels, batch 8, 14 pixels': (stage, (8,512,14,14)),
}

def step(model, xb):
    "Seconds of one forward and backward; gradients add up in place, as they do in a step of several networks"
    start = time.perf_counter()
    model(xb).square().mean().backward()
    return time.perf_counter()-start

def compare(model, base, xb, pairs, rng):
    "Steps of `model` over steps of `base`, in pairs of random order"
    for m in (model, base):
        m.train()
        for _ in range(2): step(m, xb)
    gc.collect()
    gc.disable()
    try: found = [pair(model, base, xb, rng.random()<.5) for _ in range(pairs)]
    finally: gc.enable()
    ratio,low,high = median_interval([a/b for a,b in found])
    ms,base_ms = (1000*median(times) for times in zip(*found))
    return dict(ratio=round(ratio,4), low=round(low,4), high=round(high,4), ms=round(ms,2), base_ms=round(base_ms,2))

def pair(model, base, xb, model_first):
    "Seconds of both"
    if model_first: return step(model, xb), step(base, xb)
    seconds = step(base, xb)
    return step(model, xb), seconds

def time_pairs(pairs, seed):
    "Every network: the full supernet over the plain network, then active over extracted subnets"
    rng, res = random.Random(seed), []
    for name,(build,shape) in NETS.items():
        torch.manual_seed(seed)
        plain, xb = build(), torch.randn(shape)
        sn = Supernet(copy.deepcopy(plain), xb, widths=WIDTHS)
        todo = [('full / plain', 1., plain, FULL)]
        todo += [('active / extracted', w, sn.extract(sn.space.uniform(width=w)), ACTIVE) for w in WIDTHS]
        for what,width,small,target in todo:
            with sn.active(sn.space.uniform(width=width)): r = compare(sn.model, small, xb, pairs, rng)
            res.append(dict(net=name, what=what, width=width, target=target, **r))
            print(name, what, width, r, flush=True)
    return res

def seconds_of(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def time_tracing(seed, repeats):
    """Every model of the tests' zoo, and `LARGE`: seconds until its channels are found and checked, seconds until it is
    a supernet whose subnets are checked, too, and the limit: 3 s, or 5 forward passes of a batch of 64"""
    sys.path.insert(0, str(root/'tests'))
    from zoo import large_case, zoo
    res = []
    for name,case in {**zoo, **{n:large_case(n) for n in LARGE}}.items():
        model, xb = case.model(seed), case.xb(64)
        def median_seconds(f):
            copies = (copy.deepcopy(model) for _ in range(repeats))
            return round(median(seconds_of(partial(f, m, xb)) for m in copies), 3)
        traced, seconds = median_seconds(trace_channels), median_seconds(Supernet)
        with torch.no_grad():
            model(xb[:2])
            forward = seconds_of(lambda: model(xb))
        res.append(dict(model=name, pixels=case.size, traced=traced, seconds=seconds, forward=round(forward,3),
                        limit=round(max(SECONDS, PASSES*forward),2)))
        print(res[-1], flush=True)
    return res

def machine():
    "Where and with what this ran"
    commit = COMMIT.rstrip('+')
    versions = dict(torch=torch.__version__, torchvision=torchvision.__version__, python=platform.python_version())
    return dict(cpu=processor(), cores=os.cpu_count(), threads=torch.get_num_threads(), **versions, commit=commit,
                changed=commit!=COMMIT, load=round(os.getloadavg()[0],2), date=datetime.date.today().isoformat())

PARTS = {
    'pairs': lambda a: dict(seed=a.seed, pairs=a.pairs, rows=time_pairs(a.pairs, a.seed)),
    'tracing': lambda a: dict(seed=a.seed, repeats=a.repeats, rows=time_tracing(a.seed, a.repeats))}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pairs', type=int, default=30, help='pairs per ratio')
    p.add_argument('--parts', nargs='+', choices=PARTS, default=[*PARTS], help='what to measure; the other stays')
    p.add_argument('--repeats', type=int, default=3, help='supernets of each model')
    p.add_argument('--threads', type=int, default=os.cpu_count(), help='of torch')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', type=Path, default=path, help='JSON to write; docs/speed.md is made from the default one')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    found = json.loads(a.out.read_text(encoding='utf-8')) if a.out.exists() else {}
    for part in a.parts: found[part] = dict(machine=machine(), **PARTS[part](a))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(found, indent=1)+'\n', encoding='utf-8')

if __name__ == '__main__': main()
