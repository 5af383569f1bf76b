"""Seconds of a training step at every size, in turn, on an idle machine

A row of results/grow_steps.jsonl per network, number format and machine.

python benchmarks/grow_steps.py [--only NAME ...] [--rounds 5] [--threads 1]
"""
import argparse
from collections import namedtuple
from functools import partial
import timm, torch, torchvision
from fastai.callback.channelslast import ChannelsLast
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.stages import candidates, step_seconds
from elastic_nets.zoo.models import deeplabv3plus, resnet_cifar, vit
from common import CPUMixed, results, write_row

path = results/'grow_steps.jsonl'
Net = namedtuple('Net', 'build bs px by')
def small_vit(patch): return partial(vit, img=32, patch=patch, dim=96, depth=8, heads=3)

NETS = {
    'ResNet-20, base 16': Net(partial(resnet_cifar, 20, width=16), 128, 32, 'width'),
    'ResNet-20, base 32': Net(partial(resnet_cifar, 20, width=32), 128, 32, 'width'),
    'ResNet-8, base 16': Net(partial(resnet_cifar, 8), 128, 32, 'width'),
    'ResNet-32, base 16': Net(partial(resnet_cifar, 32), 128, 32, 'width'),
    'ResNet-56, base 16': Net(partial(resnet_cifar, 56), 128, 32, 'width'),
    'ViT of 8 blocks, 96 wide': Net(small_vit(4), 128, 32, 'depth'),
    'ViT of 8 blocks, 96 wide, patches of 8': Net(small_vit(8), 128, 32, 'depth'),
    'DeepLabV3+ on ResNet-18, its backbone':
        Net(partial(deeplabv3plus, 'resnet18', n_classes=4, width=48), 16, 64, 'width'),
}
LARGE = { # on a GPU
    'ResNet-32, batch 1024': Net(partial(resnet_cifar, 32), 1024, 32, 'width'),
    'ResNet-56, batch 1024': Net(partial(resnet_cifar, 56), 1024, 32, 'width'),
    'ResNet-50, 224 pixels': Net(torchvision.models.resnet50, 256, 224, 'width'),
    'DeiT-B, 224 pixels': Net(partial(timm.create_model, 'deit_base_patch16_224'), 128, 224, 'depth'),
}
FORMATS = {'fp32': [], 'fp32 channels_last': [ChannelsLast],
           'bf16': [CPUMixed], 'bf16 channels_last': [CPUMixed, ChannelsLast]}

def measure(net, submodule, cbs, rounds, device, opt_func=partial(SGD, mom=.9)):
    "[size, milliseconds, MACs] for all sizes from a quarter; only `submodule` grows, if it has a name"
    torch.manual_seed(0)
    def target(i): return torch.randint(4, (net.px,net.px)) if submodule else i%10 # there, every pixel has a class
    data = [(torch.randn(3, net.px, net.px), target(i)) for i in range(net.bs)]
    dls = DataLoaders(DataLoader(data, bs=net.bs), DataLoader(data, bs=net.bs), device=device)
    loss = CrossEntropyLossFlat(axis=1 if submodule else -1)
    learn = Learner(dls, net.build(), loss, opt_func=opt_func, cbs=[cb() for cb in cbs])
    graph = trace_channels(learn.model, torch.stack([x for x,_ in data[:2]]), check=False)
    models, macs = candidates(learn.model, graph, .25, net.by, submodule)
    with learn.no_bar(): seconds = step_seconds(learn, models, rounds)
    return [[size, round(1000*seconds[size], 2), macs[size]] for size in models]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    gpu = torch.cuda.is_available()
    for name,net in (LARGE if gpu else NETS).items():
        if a.only and name not in a.only: continue
        submodule = 'backbone' if 'backbone' in name else ''
        for fmt,cbs in FORMATS.items():
            c = dict(net=name, format=fmt, bs=net.bs, px=net.px, by=net.by, threads=a.threads, gpu=gpu)
            with write_row(path, name, c) as row:
                if row is not None: row['sizes'] = measure(net, submodule, cbs, a.rounds, 'cuda' if gpu else 'cpu')

if __name__=='__main__': main()
