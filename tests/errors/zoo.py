"Published spaces, choices that depend on others, reference networks and data"
from functools import cache
from dataclasses import replace
from unittest.mock import patch
import torch
from torchvision import models as tvm
from elastic_nets.subnets.subnet import Space
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo import data
from elastic_nets.zoo.data import cifar_dls, cityscapes_dls, digits_dls, imagefolder_dls, shapes_dls
from elastic_nets.zoo.models import deeplabv3plus, mobilenet_cifar, resnet_cifar, vgg_cifar, vit
from elastic_nets.zoo.spaces import compofa_space, ofa_mobilenetv3, ofa_proxyless, ofa_resnet50

# ---- choices that depend on others

a,b,c,z = [('width',n) for n in 'abcz']

def given(leads):
    "A space of three widths, one of them in a block that may be dropped, in which some choices depend on others"
    return Space({'a':(1,2), 'b':(4,8), 'c':(5,6)}, {'r':(0,1)}, inside={c:('r',0)}, given=leads)

# ---- spaces of other networks

@cache
def mobile(): return ofa_mobilenetv3(10, img=32)

def supernet(change=lambda own: own, **kwargs):
    "The supernet of a mobile network, whose own space is changed before"
    model,own = mobile()
    return Supernet(model, torch.randn(1,3,32,32), check=False, space=change(own), **kwargs)

def wider(own): return ofa_mobilenetv3(10, img=32, width=1.2)[1]
def fewer_widths(own): return replace(own, width={**own.width, 'layer2.0.convs.expand.conv':(48,64)})

# ---- data

def offline(**kwargs):
    "CIFAR without data and network"
    with patch.object(data, 'untar_data', side_effect=OSError('Network is unreachable')): return cifar_dls(**kwargs)

ERRORS = [
    ('a lead that is no choice', lambda: given({b:(z,{1:(4,)})}), "given: width of 'z' is not a choice"),
    ('a follower that is no choice', lambda: given({z:(a,{1:(4,)})}), "width of 'z' is not a choice"),
    ('a value of the lead is missing', lambda: given({b:(a,{1:(4,8)})}),
        "needs values for width of 'a' at (1, 2), got them for (1,)"),
    ('a value of the follower is missing', lambda: given({b:(a,{1:(4,), 2:(9,)})}), 'does not hold the values (4, 8)'),
    ('now one value and now two', lambda: given({b:(a,{1:(4,), 2:(4,8)})}), 'equally many'),
    ('a depth that follows', lambda: given({('depth','r'):(a,{1:(0,), 2:(1,)})}), "depth of 'r' cannot depend"),
    ('a lead that may be gone', lambda: given({a:(c,{5:(1,), 6:(2,)})}),
        "width of 'c', whose block may be dropped without it"),

    ('widths of another network', lambda: supernet(wider),
        "widths: 144 is not possible for 'layer2.0.convs.expand.conv'"),
    ('a part of the widths', lambda: supernet(fewer_widths),
        r'space: width of .* is \(48, 64\), in this network it is \(48, 64, 96\)'),
    ('layers of another network', lambda: supernet(lambda own: ofa_resnet50()[1]),
        "widths: 'stem.conv1.conv' is not there"),
    ('nothing inside of blocks', lambda: supernet(lambda own: replace(own, inside={})), 'space: inside of'),
    ('a space with limits', lambda: supernet(lambda own: own.constrain(lambda s: 1, hi=2)), 'limits'),
    ('a space and depths', lambda: supernet(depths=(0,1)), 'leave widths, depths'),
    ('a space and a divisor', lambda: supernet(divisor=8), 'leave widths, depths'),

    ('strides that are not known', lambda: ofa_mobilenetv3(img=64),
        'img: strides are known for 224 and 32 pixels, got 64'),
    ('an even kernel', lambda: ofa_mobilenetv3(kernels=(3,4)), 'kernels: odd sizes such as (3,5,7)'),
    ('kernels of two stages', lambda: ofa_mobilenetv3(kernels=((3,),(5,))), 'each of the 5 stages'),
    ('no kernels', lambda: ofa_mobilenetv3(kernels=()), 'kernels: odd sizes'),
    ('kernels of five stages for six', lambda: ofa_proxyless(kernels=((3,),)*5), 'each of the 6 stages'),
    ('CompOFA of a ResNet', lambda: compofa_space(ofa_resnet50()[1]), 'as many of each are needed'),

    ('a depth between two ResNets', lambda: resnet_cifar(21), 'depth must be 6n+2'),
    ('a depth between two VGGs', lambda: vgg_cifar(12), '[11, 13, 16, 19]'),
    ('MobileNet v3', lambda: mobilenet_cifar(3), 'version must be 1 or 2'),
    ('half a patch', lambda: vit(img=30), 'img must be a multiple of patch=4'),
    ('half a head', lambda: vit(dim=64), 'dim must be a multiple of heads=3'),
    ('a backbone that is no ResNet', lambda: deeplabv3plus(tvm.vgg11()), 'got VGG', TypeError),
    ('a backbone that is not known', lambda: deeplabv3plus('resnet21'), "'resnet18'"),
    ('weights for a ready backbone', lambda: deeplabv3plus(tvm.resnet18(), weights='DEFAULT'), 'given by name'),

    ('two channels', lambda: digits_dls(n_in=2), 'n_in must be 1 or 3'),
    ('a batch larger than the data', lambda: shapes_dls(n=10, bs=7), 'bs must be from 1 to 6'),
    ('CIFAR-20', lambda: cifar_dls(20), 'n must be 10 or 100'),
    ('CIFAR-10 offline', offline, r'cifar10/train/CLASS.*`path`', FileNotFoundError),
    ('CIFAR-100 offline', lambda: offline(n=100), 'CIFAR-100', FileNotFoundError),
    ('CIFAR in a folder that is not there', lambda: cifar_dls(path='/nowhere'),
        '/nowhere/train is not there', FileNotFoundError),
    ('a folder that is not there', lambda: imagefolder_dls('/nowhere'),
        '/nowhere/train is not there', FileNotFoundError),
    ('no Cityscapes', lambda: cityscapes_dls('/nowhere'),
        r'no Cityscapes in /nowhere.*/nowhere/leftImg8bit/train/CITY.*gtFine.*registers at https', FileNotFoundError),
]
