"""What a switch between prepared subnets costs, measured against a forward; writes results/switch.json

python benchmarks/switch.py [--threads 2] [--out FILE]
"""
import argparse, json, statistics, time
from functools import partial
from pathlib import Path
import torch, torchvision
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.switch import Switcher
from elastic_nets.zoo.models import resnet_cifar, vit
from common import COMMIT, processor, results

MOST = .01 # Target: share of a forward of the smallest network, of one picture
NETS = { # name -> network, side of its picture
    'ResNet-20, 32 pixels': (partial(resnet_cifar, 20), 32),
    'MobileNetV2, 64 pixels': (partial(torchvision.models.mobilenet_v2, num_classes=10), 64),
    'ViT of 6 blocks, 32 pixels': (partial(vit, depth=6), 32)}

def seconds(calls, rounds=15, n=20):
    "Medians over rounds of what one call takes; the calls take turns"
    found = [[] for _ in calls]
    for _ in range(rounds):
        for f,took in zip(calls, found):
            start = time.perf_counter()
            for i in range(n): f(i)
            took.append((time.perf_counter()-start)/n)
    return [statistics.median(took) for took in found]

@torch.no_grad()
def row(name):
    "A switch, a switch of the supernet itself, and forwards of the smallest network: shared, copied, active"
    make, side = NETS[name]
    x = torch.randn(1,3,side,side)
    sn = Supernet(make().eval(), x, depths=(0,1), check=False)
    subnets = [sn.space.min, *[sn.space.sample(i) for i in range(6)], sn.space.max]
    switcher, copies = [Switcher(sn, subnets, share=share) for share in (True, False)]
    budgets, net, copy = [sn.macs(s) for s in subnets], switcher.nets[subnets[0]], copies.nets[subnets[0]]
    def active(i):
        with sn.active(subnets[0]): sn.model(x)
    for s in subnets: sn.set_active(s)
    calls = [lambda i: switcher.within(budgets[i%8]), lambda i: sn.set_active(subnets[i%8]), lambda i: net(x),
             lambda i: copy(x), active]
    us = [round(1e6*s, 2) for s in seconds(calls)]
    return dict(zip(('switch','set_active','shared','copied','active'), us), share=us[0]/us[2], most=MOST)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--out', type=Path, default=results/'switch.json')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    rows = {name: row(name) for name in NETS}
    about = dict(commit=COMMIT, processor=processor(), threads=a.threads, torch=torch.__version__)
    a.out.write_text(json.dumps(dict(about=about, microseconds=rows), indent=1))
    for name,r in rows.items(): print(name, {k:round(v, 5) for k,v in r.items()})
