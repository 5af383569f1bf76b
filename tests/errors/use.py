"Comparing subnets; nothing is taken out or evaluated before what is wrong is said"
from functools import cache
from io import StringIO
from unittest.mock import patch
import pandas as pd
from fastai.learner import Learner
from fastai.metrics import accuracy, error_rate
from torch import nn
from elastic_nets.subnets.budgets import profile_space
from elastic_nets.subnets.subnet import Space, Subnet
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.evaluate import (
    evaluate_subnets, flops_buckets, mean_pareto_accuracy, pareto, read_table, sample_buckets, score_supernet
)
from elastic_nets.use.latency import latency_table, load_latencies, time_subnets, widths_that_pay
from elastic_nets.use import search # noqa: F401, adds to Learner
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar

@cache
def dls(): return digits_dls(device='cpu')

@cache
def learner():
    learn = Learner(dls(), resnet_cifar(8, n_in=1), metrics=accuracy)
    learn.to_supernet(depths=(0,1))
    return learn

def space(): return learner().supernet.space

def before_work(f, *args, **kwargs):
    "Call `f`; taking out a subnet is work"
    with patch.object(Supernet, 'extract', side_effect=AssertionError('work began')): return f(*args, **kwargs)

def evaluate(*args, learn=None, **kwargs): return before_work(evaluate_subnets, learn or learner(), *args, **kwargs)
def score(test, **kwargs): return before_work(score_supernet, learner(), test, **kwargs)

def plain(): return Learner(dls(), nn.Linear(2,2), metrics=accuracy)

def without_metrics():
    learn = Learner(dls(), resnet_cifar(8, n_in=1))
    return learn.to_supernet() and learn

def with_another_model():
    learn = Learner(dls(), resnet_cifar(8, n_in=1), metrics=accuracy)
    learn.to_supernet()
    learn.model = nn.Linear(2, 2)
    return learn

def supernet(): return learner().supernet

def other_space(): return Space(width={'nowhere':(1,2)})

def three(): return pd.DataFrame(dict(subnet=list('abc'), macs=[10,20,50], accuracy=[.5,.7,.9]))

ERRORS = [
    ('no supernet', lambda: evaluate([], learn=plain()), 'call learn.to_supernet'),
    ('a supernet of another model', lambda: evaluate([Subnet()], learn=with_another_model()), 'to another model'),
    ('a subnet of another model', lambda: with_another_model().subnet(Subnet()), 'another model'),
    ('a subnet outside the space', lambda: evaluate([Subnet(width={'nowhere':3})]), "'nowhere' is not a choice"),
    ('no subnet', lambda: evaluate([space().min, .5]), 'a Subnet is expected', TypeError),
    ('no subnets at all', lambda: evaluate([]), 'subnets: none given'),
    ('a part of a sample', lambda: evaluate(space().min, calibrate=.5), 'calibrate: a number'),
    ('two metrics of one name', lambda: evaluate(space().min, [accuracy, accuracy]), 'name of its own'),
    ('no metric', lambda: evaluate([Subnet()], learn=without_metrics()), 'metrics: this learner has none'),
    ('chosen and reported on the same data', lambda: score(dls().valid), 'test: this is the valid data'),
    ('reported on training data', lambda: score(dls().train), 'test: this is the train data'),
    ('the same data in another loader', lambda: score(dls().valid.new(bs=7)), 'test: this is the valid data'),
    ('nothing to report on', lambda: score(None), 'test: None'),
    ('two metrics to choose by', lambda: score(dls().test, metric=[accuracy, error_rate]), 'metric: one'),
    ('no subnets in a bucket', lambda: score(dls().test, per=0), 'per: a number'),
    ('no buckets', lambda: score(dls().test, n=0), 'n: a number'),
    ('half a bucket', lambda: flops_buckets(learner().supernet, .5), 'n: a number of buckets'),
    ('half a subnet', lambda: sample_buckets(learner().supernet, per=.5), 'per: a number of subnets'),
    ('no such cost', lambda: mean_pareto_accuracy(three(), 1, 2, cost='seconds'), "cost: 'seconds' is no column"),
    ('no such metric', lambda: pareto(three(), metric='acc'), "'acc' is no column of the table; it has subnet, macs"),
    ('a budget that buys nothing', lambda: mean_pareto_accuracy(three(), 5, 50), 'evaluate the smallest'),
    ('an empty range of budgets', lambda: mean_pareto_accuracy(three(), 20, 20), 'below the highest'),
    ('no budget', lambda: supernet().constrain(), 'no budget is given'),
    ('less than the smallest', lambda: supernet().constrain(macs=1000), 'the smallest subnet has 3.11'),
    ('more than there is', lambda: supernet().constrain(params=(1e9, 1e10)), 'the full network has 7.7'),
    ('a range the wrong way round', lambda: supernet().constrain(macs=('60%', '40%')), 'lowest comes first'),
    ('three ends of a range', lambda: supernet().constrain(macs=(1, 2, 3)), 'two numbers'),
    ('a share without a sign', lambda: supernet().constrain(macs='60'), "from '1%' to '100%'"),
    ('nothing of something', lambda: supernet().constrain(macs=-1), 'a number above 0'),
    ('a latency that nobody measured', lambda: supernet().constrain(latency=1e-3), 'latency_table'),
    ('a space without a network', lambda: space().restrict(width=2).constrain(macs=1e6), 'which network'),
    ('a profile of no subnets', lambda: profile_space(supernet(), n=0), 'n: a number'),
    ('a search of nothing', lambda: learner().search_subnet(n=0), 'n: a number of evaluations'),
    ('a search by two metrics', lambda: learner().search_subnet(metric=[accuracy, error_rate]), 'metric: one'),
    ('a search below the smallest', lambda: learner().search_subnet(macs=10), 'the smallest subnet has'),
    ('a search by unmeasured seconds', lambda: learner().search_subnet(latency=1e-3), 'latency_table'),
    ('a search without supernet', lambda: plain().search_subnet(macs=1e6), 'call learn.to_supernet'),
    ('a table from one subnet', lambda: latency_table(supernet(), n=1), 'n: a whole number from 4'),
    ('a table nobody checked', lambda: latency_table(supernet(), held_out=0), 'held_out: a whole number from 2'),
    ('a batch of nothing', lambda: time_subnets(supernet(), space().min, batch=0), 'batch: a number'),
    ('a file that is no table', lambda: load_latencies(supernet(), __file__), 'not the JSON of a latency table'),
    ('a device nobody has', lambda: time_subnets(supernet(), space().min, device='tpu'),
        "device: got 'tpu', which is not possible"),
    ('a device without memory', lambda: latency_table(supernet(), device='meta'), 'cpu can be used|cpu and'),
    ('a device that is no word', lambda: widths_that_pay(supernet(), device=3.5),
        'device: got 3.5, which is not possible'),
    ('a metric that is a word', lambda: evaluate(space().min, 'accuracy'), "got 'accuracy'", TypeError),
    ('a table without subnets', lambda: read_table(StringIO('a,b')), 'no column subnet; it has a, b'),
    ('a subnet that is none', lambda: read_table(StringIO('subnet\nos.remove(1)')), 'is no Subnet as it prints'),
    ('a study that is none', lambda: learner().search_subnet(storage=__file__), 'is a file of something else'),
    ('a gain of everything', lambda: widths_that_pay(supernet(), gain=1), 'gain: a number in [0, 1), got 1'),
    ('wider than there is', lambda: widths_that_pay(supernet(), (2,)), 'widths: a number in (0, 1], got 2'),
    ('another space', lambda: supernet().constrain(macs='50%', space=other_space()), 'is not of this supernet'),
]
