"One kind of thing where another is meant, as newcomers do it"
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
import numpy as np, pandas as pd, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.grow.stages import StagePlan, plan_stages
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.subnets.budgets import profile_space
from elastic_nets.subnets.cost import latency, macs, n_params
from elastic_nets.subnets.ranks import ready_on_cpu
from elastic_nets.subnets.subnet import Space, Subnet
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.checkpoint import ElasticCheckpoint
from elastic_nets.use.evaluate import evaluate_subnets, flops_buckets, mean_pareto_accuracy, pareto, sample_buckets
from elastic_nets.use.latency import latency_table, time_subnets
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar

@cache
def learner():
    learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy)
    learn.to_supernet(widths=(.5,1.))
    return learn

def sn(): return learner().supernet
def space(): return sn().space
def net(): return resnet_cifar(8, width=8)
x = torch.randn(2,3,8,8)
def array(): return np.zeros((2,3,8,8), 'float32')
def table(): return pd.DataFrame(dict(subnet=[space().min], macs=[1], accuracy=[.5]))
def resnet(**kw): return Supernet(net(), x, check=False, **kw)
def plain(): return Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1))

module, batch = 'model: a module is expected', 'xb: a batch of tensors is expected'
models = {'a learner': (lambda: plain(), 'got a Learner; take its `.model`'),
          'a function': (lambda: len, 'got a builtin_function_or_method'),
          'a class': (lambda: nn.Linear, r'a class; make a module of it, Linear\(\.\.\.\)'),
          'a path': (lambda: 'model.pth', 'got a str'), 'nothing': (lambda: None, 'got a NoneType')}
batches = {'a shape': (lambda: (2,3,8,8), 'got int; of a shape make one, torch.randn'),
           'an array': (array, 'of an array make one, torch.from_numpy'),
           'a loader': (lambda: digits_dls(device='cpu').train, 'of a loader take one, dl.one_batch'),
           'a word': (lambda: 'x', 'got str')}
uses = {'trace_channels': trace_channels, 'Supernet': Supernet, 'macs': macs}

def call(use, model, xb): return use(model(), xb())

given = [
    *[(f'{what} as the model of {name}', partial(call, use, make, lambda: x), f'{module}.*{hint}', TypeError)
      for name,use in uses.items() for what,(make,hint) in models.items()],
    *[(f'{what} as the batch of {name}', partial(call, use, net, make), f'{batch}.*{hint}', TypeError)
      for name,use in uses.items() for what,(make,hint) in batches.items()],
    ('a shape is timed', lambda: latency(net(), (2,3,8,8)), f'{batch}.*shape', TypeError),
    ('a function has no parameters', lambda: n_params(len), module, TypeError),
    ('a supernet as a model', lambda: trace_channels(sn(), x), 'got a Supernet; take its `.model`', TypeError),
    *[(f'nothing as the supernet of {f.__name__}', partial(f, None), 'a Supernet is expected, got a None', TypeError)
      for f in (profile_space, flops_buckets, sample_buckets, latency_table)],
    ('a learner where subnets are timed', lambda: time_subnets(learner(), space().min), 'take `learn.supernet`',
     TypeError),
    ('a supernet as a learner', lambda: evaluate_subnets(sn(), space().min), 'a Learner with a supernet', TypeError),
    ('a model to plan stages for', lambda: plan_stages(net(), stages=2), 'a Learner is expected, got', TypeError),
]

choices = [
    ('widths of words', lambda: resnet(widths=('a','b')), "widths: numbers are expected, .*got 'a'"),
    ('widths of nothing', lambda: resnet(widths=(None,)), 'widths: numbers are expected'),
    ('widths that are true', lambda: resnet(widths=(True, .5)), 'widths: numbers are expected, .*got True'),
    ('a width of no number', lambda: resnet(widths=(float('nan'), 1.)), 'a width is a share'),
    ('a negative width', lambda: resnet(widths=(-1., 1.)), 'a width is a share'),
    ('a word for widths', lambda: resnet(widths='half'), "widths: a tuple such as .*got 'half'"),
    ('a range for widths', lambda: resnet(widths=range(3)), 'widths: a tuple such as'),
    ('a number for depths', lambda: resnet(depths=.5), 'depths: a tuple such as'),
    ('an array of even kernels', lambda: resnet(kernels=np.array([2])), 'kernels'),
    ('an array of negative resolutions', lambda: resnet(resolutions=np.array([-8, 8])), 'a tuple of pixels'),
    ('a word for a learner', lambda: plain().to_supernet(widths='half'), 'widths: a tuple such as'),
    ('a number as a subnet', lambda: Subnet(3), 'width of a Subnet maps names to whole numbers'),
    ('half a channel', lambda: Subnet(width={'a':1.5}), 'width of a Subnet maps names to whole numbers'),
    ('a word as a number of channels', lambda: Subnet(width={'a':'b'}), 'width of a Subnet maps names'),
    ('a number as a space', lambda: Space(3), 'width of a Space maps names to tuples of whole numbers'),
    ('one number of a space', lambda: Space({'a':3}), 'width of a Space maps names to tuples'),
    ('words in a space', lambda: Space({'a':('x',)}), 'width of a Space maps names to tuples'),
]

subnets = [
    ('a row as a subnet', lambda: evaluate_subnets(learner(), table().iloc[0]), 'its column, table.subnet', TypeError),
    ('a table as subnets', lambda: evaluate_subnets(learner(), table()), 'take its column, table.subnet', TypeError),
    ('nothing as subnets', lambda: evaluate_subnets(learner(), None), 'a Subnet, or a list of them', TypeError),
    ('a word as a subnet', lambda: learner().subnet('min'), "a Subnet is expected.*got 'min'", TypeError),
    ('a row to take out', lambda: learner().subnet(table().iloc[0]), 'of a row of a table take', TypeError),
    ('a share to take out', lambda: sn().extract(.5), 'a Subnet is expected', TypeError),
    ('a negative calibration', lambda: learner().subnet(space().min, calibrate=-5), 'calibrate: a number of'),
    ('a negative sample', lambda: calibrate_bn(net(), [x], n=-1), 'n: a number of samples from 1, got -1'),
    ('a list as a table', lambda: pareto([1,2]), 'table: a DataFrame is expected', TypeError),
    ('a dict as a table', lambda: pareto(dict(macs=[1])), 'table: a DataFrame is expected', TypeError),
    ('a mean of a list', lambda: mean_pareto_accuracy([1], 1, 2), 'table: a DataFrame is expected', TypeError),
    ('a path as JSON', lambda: Subnet.from_json(Path('x')), r'a .*Path; read it, path.read_text', TypeError),
    ('nothing as JSON', lambda: Subnet.from_json(None), 'is a text, got a NoneType', TypeError),
    ('a dict as JSON', lambda: Subnet.from_json({}), 'is a text, got a dict', TypeError),
    ('a list in JSON', lambda: Subnet.from_json('[1]'), 'a Subnet of version 1 is expected'),
    ('half a text of JSON', lambda: Subnet.from_json('{"a"'), 'is the text cut short'),
]

def alone_of_two():
    "torchrun started two processes that cannot talk"
    trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1), sync_bn=True)
    with patch.dict('os.environ', WORLD_SIZE='2'): ready_on_cpu(SimpleNamespace(distributed_trainer=trainer))

rest = [
    ('a plan that begins late', lambda: StagePlan((.5,1.), (.1,.5)), 'starts are parts of the fit from 0'),
    ('a plan of words', lambda: StagePlan('ab', 'cd'), 'sizes and starts are tuples of numbers'),
    ('a plan of one number', lambda: StagePlan(.5, 1.), 'sizes and starts are tuples of numbers'),
    ('a list as a plan', lambda: GrowWidth(plan=[.5,1.]), 'plan is a StagePlan'),
    ('a number as a folder', lambda: ElasticCheckpoint(3), 'path: a folder is expected', TypeError),
    ('no folder', lambda: ElasticCheckpoint(None), 'path: a folder is expected', TypeError),
    ('half a batch between files', lambda: ElasticCheckpoint('a', every=.5), 'every: a whole number from 1'),
    ('no files kept', lambda: ElasticCheckpoint('a', keep=None), 'keep: a whole number from 1'),
    ('two processes without cards', alone_of_two, r'use learn.distrib_ctx\(cpu=True\)'),
]

ERRORS = given+choices+subnets+rest
