"""Every model of the first table of docs/coverage.md as ONNX, five subnets each, compared with PyTorch

python benchmarks/onnx_files.py [--only MODEL ...] (15 minutes on a fast idle machine, 40 on a slow one)

A file is refused by `to_onnx` unless it answers as PyTorch does for 1, 3 and 8 samples; here a fourth batch, of 5,
is compared with the supernet itself.
"""
import sys, tempfile
from functools import cache
from pathlib import Path
import torch
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.deploy import batch_of, difference, to_onnx
from common import Job, main, results, root

path = results/'onnx_files.jsonl'
TOL = 1e-4 # of the largest answer

@cache
def models():
    "Name -> the model of the coverage, which the tests know"
    sys.path.insert(0, str(root/'tests'))
    from zoo import zoo
    return zoo

def answers(sn, subnet, xb, file):
    "Largest difference between the file of `subnet` and PyTorch, and the bytes of the file"
    net = to_onnx(sn.extract(subnet), file, xb, tol=TOL)
    with sn.active(subnet): gap = difference(net, sn.model, batch_of((xb,), 5))
    if gap>TOL: raise ValueError(f'the ONNX file is wrong: with 5 samples its answers differ by {gap:.2g}')
    return max(gap, net.report['difference']), net.report['bytes']

def train(c):
    "The largest, the smallest and random subnets; or why the model is refused"
    case = models()[c['model']]
    sn, xb = Supernet(case.model(), case.xb(), depths=(0,.5,1), kernels=case.kernels, check=False), case.xb()
    subnets = [sn.space.max, sn.space.min, *map(sn.space.sample, range(c['random']))]
    with tempfile.TemporaryDirectory() as d:
        try: found = [answers(sn, s, xb, Path(d)/'net.onnx') for s in subnets]
        except ValueError as e: return dict(refused=' '.join(str(e).split())[:300])
    gaps, sizes = zip(*found)
    return dict(difference=float(f'{max(gaps):.2g}'), bytes_largest=sizes[0], bytes_smallest=sizes[1])

def configs(seeds):
    for name in models(): yield name, dict(model=name, random=3)

if __name__ == '__main__':
    torch.set_grad_enabled(False)
    main(__doc__, onnx=Job(path, configs, train))
