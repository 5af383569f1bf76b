"""What whole numbers of 8 bits cost: accuracy and size of trained networks, and milliseconds

python benchmarks/eight_bits.py --parts accuracy (a few minutes of training; needs fastai's CIFAR-10)
python benchmarks/eight_bits.py --parts milliseconds (weights do not matter: on an idle machine)
"""
import tempfile
from pathlib import Path
import torch
from fastai.callback.all import * # noqa: F403, patches Learner
from fastai.learner import Learner
from fastai.metrics import accuracy
from elastic_nets.shrink.methods import delayed_shrinking
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.use.deploy import to_int8, to_onnx
from elastic_nets.zoo.data import cifar_dls, digits_dls
from elastic_nets.zoo.models import resnet_cifar
from common import Job, main, results, set_seed

path, times = results/'eight_bits.jsonl', results/'eight_bits_ms.jsonl'

def digits(): return digits_dls(size=16, device='cpu'), resnet_cifar(20, n_in=1), 15
def cifar10(): return cifar_dls(n_train=20000, device='cpu'), resnet_cifar(8), 8
DATA = dict(digits=digits, cifar10=cifar10) # loaders, network, epochs

def tested(learn, model):
    "Accuracy on pictures that played no part: test for CIFAR-10; of digits, which are few, validation too"
    parts = [learn.dls.test] if len(learn.dls.test.dataset)>5000 else [learn.dls.valid, learn.dls.test]
    whole, learn.model, right = learn.model, model, 0.
    try:
        with learn.no_bar(), learn.no_logging():
            for dl in parts: right += learn.validate(dl=dl)[1]*len(dl.dataset)
    finally: learn.model = whole
    return 100*right/sum(len(dl.dataset) for dl in parts), sum(len(dl.dataset) for dl in parts)

def family(dls, net, epochs):
    "A family; the subnets that are exported are the full network and one of half the MACs"
    learn = Learner(dls, net, metrics=accuracy)
    sn = learn.to_supernet(depths=(0,1))
    onion = OnionTraining(delayed_shrinking(), estimate=False, watch=())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 4e-3, cbs=onion)
    return learn, {'full': sn.space.max, 'half': sn.constrain(macs='50%').sample(0)}

@torch.no_grad()
def exported(net, learn, d, **kw):
    "`net` as a file, and as one of 8 bits"
    xb = torch.Tensor(learn.dls.valid.one_batch()[0][:8])
    file = to_onnx(net, Path(d)/'f.onnx', xb)
    return file, to_int8(file, Path(d)/'b.onnx', learn, **kw)

def train(c):
    set_seed(c['seed'])
    learn, subnets = family(*DATA[c['data']]())
    found = {}
    for name,s in subnets.items():
        small = learn.subnet(s)
        with tempfile.TemporaryDirectory() as d:
            file, bits = exported(small.model, small, d, rounds=1)
            (before, n), (after, _) = tested(small, file), tested(small, bits)
        found[name] = dict(macs=learn.supernet.macs(s), before=round(before, 3), after=round(after, 3), pictures=n,
                           bytes_before=file.report['bytes'], bytes=bits.report['bytes'])
    return found

def configs(seeds):
    for data in DATA:
        for seed in seeds[:1] if data=='cifar10' else seeds: yield data, dict(data=data, seed=seed)

def milliseconds(c):
    "Milliseconds of one picture, with weights that are not trained"
    set_seed(0)
    dls, net, _ = DATA[c['data']]()
    learn = Learner(dls, net, metrics=accuracy)
    sn, found = learn.to_supernet(depths=(0,1)), {}
    for name,s in {'full': sn.space.max, 'half': sn.constrain(macs='50%').sample(0)}.items():
        with tempfile.TemporaryDirectory() as d: r = exported(sn.extract(s), learn, d, rounds=101)[1].report
        found[name] = dict(before=round(r['milliseconds_before'], 4), after=round(r['milliseconds'], 4))
    return found

def time_configs(seeds):
    for data in DATA: yield data, dict(data=data)

if __name__ == '__main__':
    main(__doc__, accuracy=Job(path, configs, train), milliseconds=Job(times, time_configs, milliseconds))
