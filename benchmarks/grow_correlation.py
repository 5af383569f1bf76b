"""Figure 6 of network expansion on CIFAR-10: how feature maps correlate just after growth; writes results/grow_correlation.jsonl

python benchmarks/grow_correlation.py [--seeds 0]
"""
import copy
import torch
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.widen import _INITS
from elastic_nets.grow.widen import grow_width, start_narrow
from common import Lean, main, results
from grow_width import BASE, learner

path, LAYER = results/'grow_correlation.jsonl', 'layer1.0.conv2.conv' # the third convolution

def train(c):
    "Five epochs at half width, then growth to three quarters: Pearson correlations between the maps of one test picture"
    learn = learner(c)
    graph = trace_channels(learn.model, learn.dls.one_batch()[0])
    keep = start_narrow(learn.model, graph, .5)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'])
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, Lean)])
    x, res = learn.dls.test.one_batch()[0][:1].as_subclass(torch.Tensor), {}
    for n in ('replicate','orthogonal','random'):
        m = copy.deepcopy(learn.model).eval()
        torch.manual_seed(c['seed'])
        grow_width(m, graph, keep, .75, _INITS[n])
        maps = []
        m.get_submodule(LAYER).register_forward_hook(lambda _,i,o: maps.append(o))
        with torch.no_grad(): m(x)
        res[n] = [[round(v,3) for v in r] for r in torch.corrcoef(maps[0][0].flatten(1)).tolist()]
    return dict(layer=LAYER, correlations=res)

def configs(seeds):
    for s in seeds[:1]: yield 'correlation', dict(BASE, width=16, epochs=5, seed=s)

if __name__=='__main__': main(__doc__, path, configs, train)
