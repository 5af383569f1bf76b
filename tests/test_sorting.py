"Sorting channels in tiers: subnets at a tier's border compute what they did"
import copy
import pytest, torch
from torch import nn
from elastic_nets.subnets.supernet import Supernet
from helpers import fails, is_close, randomise
from supernets import outs, resnet

def test_tiers_keep_their_subnets():
    sn = resnet()
    subs = [sn.space.sample(i) for i in range(6)]
    want, before = outs(sn, subs), copy.deepcopy(sn.model)
    sn.sort_channels(tiers=sn.space)
    assert is_close(outs(sn, subs), want)
    assert not any(torch.equal(sn.layers[n].weight, before.get_submodule(n).weight) for n in sn.space.width)

def test_tiers_of_one_s_own():
    "A border of 16 channels where there are more, and whole groups elsewhere"
    sn = resnet()
    tiers = {g:(16,) for g in sn.space.width if sn.graph.groups[g].size>16}
    at_16 = sn.space._build(lambda dim,n,vs: 16 if dim=='width' and n in tiers else vs[-1])
    subs = [at_16, sn.space.max]
    want = outs(sn, subs)
    sn.sort_channels(lambda w: torch.rand(len(w)), tiers=tiers)
    assert is_close(outs(sn, subs), want)
    narrow = outs(sn, [sn.space.min])
    sn.sort_channels()
    assert not is_close(outs(sn, [sn.space.min]), narrow, 1e-3)

def test_tiers_are_sorted_inside():
    net = randomise(nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,3)))
    sn = Supernet(net, torch.randn(2,4), widths={'0':(2,4,6)})
    def score(): return net[2].weight.abs().sum(0).tolist()
    def down(xs): return sorted(xs, reverse=True)
    before = score()
    sn.sort_channels(tiers={'0':(4,)})
    assert score()==pytest.approx(down(before[:4])+down(before[4:]))
    sn.sort_channels(tiers=None)
    assert score()==pytest.approx(down(before))

@pytest.mark.parametrize('tiers, match', [
    ({'nope':(4,)}, "tiers: 'nope' is not there"), ({'0':(9,)}, "9 is not possible for '0'"),
    ({'0':(0,)}, "0 is not possible"), ((.5,1.), 'tiers: .group: numbers')])
def test_bad_tiers_change_nothing(tiers, match):
    sn = Supernet(nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,3)), torch.randn(2,4))
    before = sn.model[0].weight.clone()
    fails(match, lambda: sn.sort_channels(tiers=tiers))
    assert torch.equal(sn.model[0].weight, before)
