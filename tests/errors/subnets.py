"Subnets, their spaces, supernets and what they cost"
import torch
from dataclasses import replace
from types import SimpleNamespace
from torch import nn
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.subnets.cost import CostMeter, cost_table, latency, layer_macs, macs, n_params
from elastic_nets.subnets.subnet import Space, Subnet
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.models import resnet_cifar

space = Space(width={'stem':(8,16), 'b1':(4,8), 'b2':(4,8)}, depth={'s':(0,1,2)}, resolution=(16,32),
              inside={('width','b1'):('s',0), ('width','b2'):('s',1)})

def check(**changes): space.check(replace(space.max, **changes))

def read(old, new): return Subnet.from_json(space.max.to_json().replace(old, new))

def resnet(**choices): return Supernet(resnet_cifar(20, n_in=1), torch.randn(2,1,8,8), check=False, **choices)

def two_linear(n=8, **choices):
    return Supernet(nn.Sequential(nn.Linear(4,n), nn.ReLU(), nn.Linear(n,2)), torch.ones(1,4), check=False, **choices)

linear, x = nn.Linear(4,2), torch.ones(1,4)
def other(): return two_linear(6, widths=(.5,1)).space.min

values = [
    ('JSON with a resolution that is no number', lambda: read('"resolution": 32', '"resolution": "x"'),
     'resolution of a Subnet'),
    ('a space that is changed', lambda: space.width.pop('stem'), 'cannot be changed', TypeError),
    ('no subnet', lambda: space.check(.5), 'a Subnet is expected', TypeError),
    ('a resolution that is not there', lambda: check(resolution=8), 'resolution: 8 is not allowed, only 16, 32'),
    ('a depth that is missing', lambda: check(depth={}), "depth of 's' is missing"),
    ('a width multiplier of 0', lambda: space.uniform(0), r'in \(0, 1\], got 0'),
]

choices = [
    ('a width of 0', lambda: resnet(widths=(0.,1.)), r'\(0, 1\], got 0'),
    ('a width above 1', lambda: resnet(widths=(.5,1.5)), r'\(0, 1\], got 1.5'),
    ('a width that leaves nothing', lambda: resnet(widths=(.01,)), 'widths: 0.01 of the 16 channels .* rounds to none'),
    ('widths of a group that is not there', lambda: resnet(widths={'nope':(4,)}), "'nope' is not there"),
    ('widths of a frozen group', lambda: resnet(widths={'head.fc':(5,)}), "'head.fc' is frozen: the network's output"),
    ('one number for widths', lambda: resnet(widths=.5), 'widths: a tuple such as'),
    ('depths of a stage that is not there', lambda: resnet(depths={'nope':(1,)}), "depths: 'nope' is not there"),
    ('a depth above 1', lambda: resnet(depths=(2.,)), r'\[0, 1\], got 2'),
    ('more blocks than there are', lambda: resnet(depths={'layer1':(9,)}),
     "9 is not possible for 'layer1'; whole numbers from 0 to 3"),
    ('kernels that nobody has', lambda: resnet(kernels=(5,)), 'no convolution has a kernel of'),
    ('an even kernel', lambda: resnet(kernels={'stem.conv':(2,)}), 'kernels'),
    ('one number for kernels', lambda: resnet(kernels=3), 'kernels: a tuple such as'),
    ('one resolution', lambda: resnet(resolutions=8), 'resolutions: a tuple of pixels'),
    ('a resolution of 0', lambda: resnet(resolutions=(0,8)), 'resolutions: a tuple of pixels'),
    ('a resolution that is no whole number', lambda: resnet(resolutions=(8.,16.)), 'resolutions: a tuple of pixels'),
    ('nothing to choose', lambda: resnet(widths=None), 'nothing to choose', NotElasticError),
    ('a divisor that is no whole number', lambda: resnet(divisor=8.), 'divisor: a whole number'),
    ('a divisor of 0', lambda: resnet(divisor=0), 'divisor: a whole number'),
    ('a learner as a model', lambda: Supernet(SimpleNamespace(dls=[], model=linear), x),
     'a SimpleNamespace; take its `.model`', TypeError),
    ('a supernet as a model', lambda: Supernet(two_linear(), x), 'a Supernet; take its `.model`', TypeError),
    ('a class as a model', lambda: Supernet(nn.Linear, x), 'make a module of it', TypeError),
    ('a function as a model', lambda: Supernet(resnet_cifar, x), r'got a function; call it, resnet_cifar', TypeError),
    ('a number as a model', lambda: Supernet(3, x), r'a module is expected \(nn.Module\), got a int', TypeError),
    ('numbers as a batch', lambda: Supernet(linear, [1,2]), 'xb: a batch of tensors is expected', TypeError),
    ('a part that is not there', lambda: Supernet(nn.Sequential(linear), x, submodule='body'), "'body' is not in the "),
    ('an input of another shape', lambda: Supernet(resnet_cifar(20, n_in=1), torch.randn(2,3,8,8)),
     r'does not run on `xb` of shape .*1, 3, 8, 8'),
    ('the subnet of another network', lambda: two_linear().set_active(other()), 'only 2, 4, 6, 8'),
    ('MACs of no subnet', lambda: two_linear().macs(None), 'a Subnet is expected', TypeError),
]

costs = [
    ('MACs of a module for a subnet', lambda: macs(linear, other()), 'needs its Supernet', TypeError),
    ('MACs of the subnet of another network', lambda: layer_macs(two_linear(), other()), 'only 2, 4, 6, 8'),
    ('parameters of the subnet of another network', lambda: n_params(two_linear(), other()), 'only 2, 4, 6, 8'),
    ('one timed call', lambda: latency(linear, x, n=1), 'n: a whole number from 2, got 1'),
    ('no device', lambda: CostMeter(devices=0), 'devices: a whole number from 1, got 0'),
    ('a table of something else', lambda: cost_table({'a':3}), r"rows\['a'\].*int"),
]

ERRORS = values+choices+costs
