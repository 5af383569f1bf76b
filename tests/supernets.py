"Small supernets in float64, with random numbers in every tensor"
import torch
from dataclasses import replace
from torch import nn
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.models import resnet_cifar
from helpers import randomise

xb = torch.randn(8,1,8,8, generator=torch.Generator().manual_seed(0)).double()

def resnet(seed=0):
    "Width and depth are elastic"
    model = randomise(resnet_cifar(20, n_in=1), seed)
    return Supernet(model.double().eval(), xb, depths=(0.,.5,1.), check=False)

def kernels(groups=8, c=8, ks=(3,5,7), seed=0):
    "Width and the kernel of layer '3' are elastic, with matrices between the kernels"
    net = nn.Sequential(
        nn.Conv2d(1, c, 1), nn.BatchNorm2d(c), nn.ReLU(),
        nn.Conv2d(c, c, ks[-1], padding=ks[-1]//2, groups=groups), nn.BatchNorm2d(c), nn.ReLU(),
        nn.Conv2d(c, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    sn = Supernet(randomise(net, seed).double().eval(), xb, kernels={'3':ks}, check=False)
    sn.kernel_matrices()
    shake(sn)
    return sn

def holding():
    "A supernet with everything that it can hold beside the model, and three subnets: private, calibrated, plain"
    sn = kernels()
    private = sn.space.min
    calibrated, plain = [replace(sn.space.uniform(w), kernel={'3':k}) for w,k in ((.75,5), (.5,3))]
    sn.private_bn(private)
    shake(sn, 2)
    sn.calibrate(calibrated, [xb])
    return sn, (private, calibrated, plain)

@torch.no_grad()
def shake(sn, seed=1):
    "Random numbers in what the supernet holds"
    gen = torch.Generator().manual_seed(seed)
    for p in sn.held_params(): p += .3*torch.randn(p.shape, generator=gen, dtype=torch.float64).to(p)

@torch.no_grad()
def outs(sn, subs):
    "What each of `subs` says, as it is active"
    res = []
    for s in subs:
        with sn.active(s): res.append(sn.model.eval()(xb.to(next(sn.model.parameters()))))
    return res

def train(model, n=2):
    "`n` backward passes on different batches"
    for i in range(n): model.train()(xb+i).square().mean().backward()
    return model.eval()
