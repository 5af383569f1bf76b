"""Seconds of a training step at every size, in turn, on an idle machine; a row of results/grow_steps.jsonl per network, number format and machine

python benchmarks/grow_steps.py [--only NAME ...] [--rounds 5] [--threads 1]
"""
import argparse
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

cifar, vit4, vit8 = partial(resnet_cifar, 20), *[partial(vit, img=32, patch=p, dim=96, depth=8, heads=3) for p in (4,8)]
NETS = {'ResNet-20, base 16': (partial(cifar, width=16), 128, 32, 'width'), 'ResNet-20, base 32': (partial(cifar, width=32), 128, 32, 'width'),
        'ResNet-8, base 16': (partial(resnet_cifar, 8), 128, 32, 'width'), 'ResNet-32, base 16': (partial(resnet_cifar, 32), 128, 32, 'width'), 'ResNet-56, base 16': (partial(resnet_cifar, 56), 128, 32, 'width'),
        'ViT of 8 blocks, 96 wide': (vit4, 128, 32, 'depth'), 'ViT of 8 blocks, 96 wide, patches of 8': (vit8, 128, 32, 'depth'), 'DeepLabV3+ on ResNet-18, its backbone': (partial(deeplabv3plus, 'resnet18', n_classes=4, width=48), 16, 64, 'width')}
LARGE = {'ResNet-32, batch 1024': (partial(resnet_cifar, 32), 1024, 32, 'width'), 'ResNet-56, batch 1024': (partial(resnet_cifar, 56), 1024, 32, 'width'),
         'ResNet-50, 224 pixels': (torchvision.models.resnet50, 256, 224, 'width'), 'DeiT-B, 224 pixels': (partial(timm.create_model, 'deit_base_patch16_224'), 128, 224, 'depth')}
FORMATS = {'fp32': [], 'fp32 channels_last': [ChannelsLast], 'bf16': [CPUMixed], 'bf16 channels_last': [CPUMixed, ChannelsLast]}

def measure(name, build, bs, px, by, cbs, rounds, device):
    "[size, milliseconds, MACs] for all sizes from a quarter"
    torch.manual_seed(0)
    seg = 'backbone' if 'backbone' in name else '' # every pixel has a class there, and the backbone grows alone
    data = [(torch.randn(3, px, px), torch.randint(4, (px,px)) if seg else i%10) for i in range(bs)]
    dls = DataLoaders(DataLoader(data, bs=bs), DataLoader(data, bs=bs), device=device)
    learn = Learner(dls, build(), CrossEntropyLossFlat(axis=1 if seg else -1), opt_func=partial(SGD, mom=.9), cbs=[c() for c in cbs])
    graph = trace_channels(learn.model, torch.stack([x for x,_ in data[:2]]), check=False)
    models, macs = candidates(learn.model, graph, .25, by, seg)
    with learn.no_bar(): seconds = step_seconds(learn, models, rounds)
    return [[s, round(1000*seconds[s], 2), macs[s]] for s in models]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*'); p.add_argument('--rounds', type=int, default=5); p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    gpu = torch.cuda.is_available()
    for name,(build,bs,px,by) in (LARGE if gpu else NETS).items():
        for fmt,cbs in FORMATS.items():
            if a.only and name not in a.only: continue
            with write_row(results/'grow_steps.jsonl', name, dict(net=name, format=fmt, bs=bs, px=px, by=by, threads=a.threads, gpu=gpu)) as row:
                if row is not None: row['sizes'] = measure(name, build, bs, px, by, cbs, a.rounds, 'cuda' if gpu else 'cpu')

if __name__=='__main__': main()
