"Out of the library: files, training on, published weights, switching, ONNX"
from functools import cache
import torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.use.save import finetune, load_subnet, save_subnet, subnet_in
from elastic_nets.use.deploy import to_int8, to_onnx
from elastic_nets.use.published import load_published
from elastic_nets.use.switch import Switcher
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.zoo.spaces import ofa_mobilenetv3

@cache
def learner():
    learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy)
    learn.to_supernet(depths=(0,1))
    return learn

def supernet(): return learner().supernet
def smallest(): return supernet().space.min
def plain(): return Learner(digits_dls(device='cpu'), nn.Linear(2,2), metrics=accuracy)
def published(): return ofa_mobilenetv3(10, img=32, width=.5)
def save(*args, of=None, **kwargs): return save_subnet(of or supernet(), *args, **kwargs)

ERRORS = [
    ('saving a plain network', lambda: save(smallest(), 'f', of=nn.Linear(2,2)), 'of: a learner or', TypeError),
    ('saving from a learner without supernet', lambda: save(smallest(), 'f', of=plain()), 'call learn.to_supernet'),
    ('saving another subnet', lambda: save(Subnet(width={'a':1}), 'f'), "'a' is not a choice"),
    ('saving no subnet', lambda: save(.5, 'f'), 'a Subnet is expected', TypeError),
    ('another network', lambda: save(smallest(), 'f', model=nn.Linear(2,2)), 'weight is of shape (2, 2), in'),
    ('no library', lambda: save(smallest(), 'f', arch='resnet'), "'torchvision:<name>' or 'timm:<name>'"),
    ('a library that is not asked', lambda: save(smallest(), 'f', arch='os:system'), "'timm:<name>' is expected"),
    ('a name of another network', lambda: save(smallest(), 'f', arch='torchvision:resnet18'), 'builds another'),
    ('a name nobody knows', lambda: save(smallest(), 'f', arch='timm:resnet19'), "timm has no network 'resnet19'"),
    ('a file that is not there', lambda: load_subnet('/nowhere/f'), 'nowhere|No such file', FileNotFoundError),
    ('a file of another kind', lambda: load_subnet(__file__), 'no safetensors file'),
    ('a subnet in a file of another kind', lambda: subnet_in(__file__), 'no safetensors file'),
    ('no epochs', lambda: finetune(learner(), smallest(), epochs=0), 'epochs: a whole number from 1'),
    ('training backwards', lambda: finetune(learner(), smallest(), lr=-1.), 'lr: a number in (0, inf), got -1.0'),
    ('finetune without supernet', lambda: finetune(plain(), Subnet()), 'call learn.to_supernet'),
    ('published weights without their space', lambda: load_published({}, nn.Linear(2,2)), 'and its Space', TypeError),
    ('weights that are none', lambda: load_published(dict(a=1), published()), 'a dict of names and tensors'),
    ('weights of another network', lambda: load_published(dict(a=torch.ones(1)), published()), 'tensors are missing'),
    ('published weights in another file', lambda: load_published(__file__, published()), 'no file of tensors'),
    ('a switch between nothing', lambda: Switcher(supernet(), []), 'subnets: none given'),
    ('a switch of a plain network', lambda: Switcher(nn.Linear(2,2), smallest()), 'a learner or a Supernet', TypeError),
    ('a switch to another subnet', lambda: Switcher(supernet(), [Subnet(width={'a':1})]), "'a' is not a choice"),
    ('a budget below the cheapest', lambda: Switcher(supernet(), smallest()).within(10), 'budget: 10 is too little'),
    ('timed never', lambda: Switcher(supernet(), smallest()).timed(rounds=0), 'rounds: a number of timed calls'),
    ('ONNX of a supernet', lambda: to_onnx(learner(), 'f'), 'net: it is a supernet; take a subnet out'),
    ('ONNX of no network', lambda: to_onnx(smallest(), 'f'), 'net: a network or a learner', TypeError),
    ('ONNX without inputs', lambda: to_onnx(nn.Linear(2,2), 'f'), 'xb: inputs are needed'),
    ('ONNX of a list', lambda: to_onnx(nn.Linear(2,2), 'f', [[1,2]]), 'first dimension is the sample'),
    ('ONNX of no samples', lambda: to_onnx(nn.Linear(2,2), 'f', torch.ones(0,2)), 'first dimension is the sample'),
    ('eight bits of no file', lambda: to_int8(nn.Linear(2,2), 'f', []), 'file: what `to_onnx` returned', TypeError),
]
