"""How well does a table of latencies predict subnets that it has not seen? Three spaces, 50 subnets each

python benchmarks/latency.py [--threads N] [--only NAME] (on an idle machine where N is not 1)
"""
import os, time
import torch
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.latency import latency_table
from elastic_nets.zoo.models import resnet_cifar, vit
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from common import Job, main, results, set_seed

path = results/'latency.jsonl'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'

def mobilenet():
    net, space = ofa_mobilenetv3(10, img=32)
    return Supernet(net, torch.randn(1,3,32,32), check=False, space=space)

SPACES = {
    'ResNet-20': lambda: Supernet(resnet_cifar(20), torch.randn(1,3,32,32), depths=(0,.5,1)),
    'MobileNetV3': mobilenet,
    'ViT': lambda: Supernet(vit(), torch.randn(1,3,32,32), depths=(.5,1))}

def train(c):
    "A table, what it predicts and what is measured"
    set_seed(c['seed'])
    sn, start = SPACES[c['space']](), time.perf_counter()
    table = latency_table(sn, batch=c['batch'], device=c['device'], n=c['n'], held_out=c['held_out'], seed=c['seed'])
    def milliseconds(column): return [round(1e3*t, 4) for t in table.held_out[column]]
    return dict(error=round(100*table.error, 2), rank=round(table.rank, 4), seconds=round(time.perf_counter()-start, 1),
                load=round(os.getloadavg()[0], 2), torch_threads=torch.get_num_threads(),
                measured=milliseconds('measured'), predicted=milliseconds('predicted'))

def configs(seeds):
    for seed in seeds:
        for space in SPACES: yield space, dict(space=space, batch=4, device=DEVICE, n=32, held_out=50, seed=seed)

if __name__ == '__main__': main(__doc__, latency=Job(path, configs, train))
