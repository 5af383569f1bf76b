"What a supernet holds beside the model goes where the model goes: copies, pickles, devices, state dicts"
import copy, io, pickle
import pytest, torch
from torch import nn
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from helpers import fails, is_close, same
from supernets import holding, kernels, outs, shake, xb

@pytest.mark.parametrize('how', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=['deepcopy','pickle'])
def test_copies_keep_model_and_supernet_together(how):
    sn, subs = holding()
    sn.set_active(subs[0])
    want, n = outs(sn, subs), len(pickle.dumps(sn))
    for s in map(sn.space.sample, range(20)): sn.set_active(s)
    sn.set_active(subs[0])
    assert len(pickle.dumps(sn))<1.02*n, 'remembered cuts are not written'

    model, new = how((sn.model, sn))
    assert new.model is model and new.subnet==subs[0] and all(map(torch.equal, outs(new, subs), want))
    ours, theirs = sn.held_params(), new.held_params()
    assert len(ours)==len(theirs)>0 and not any(a is b for a,b in zip(ours, theirs))
    assert all(isinstance(p, nn.Parameter) for p in theirs)
    shake(new, 3)
    assert all(map(torch.equal, outs(sn, subs), want))
    assert not any(map(torch.equal, outs(new, subs[::2]), want[::2]))
    with new.active(subs[0]): model.train()(xb).sum().backward()
    assert theirs[0].grad is not None and ours[0].grad is None

def test_held_parameters_follow_the_model_s_dtype():
    sn, subs = holding()
    want, ps = outs(sn, subs), sn.held_params()
    with sn.active(subs[0]): sn.model(xb).sum().backward()
    sn.model.float()
    assert all(is_close(a.double(), b, 1e-4) for a,b in zip(outs(sn, subs), want))
    assert all(a is b for a,b in zip(sn.held_params(), ps)) and {p.dtype for p in ps}=={torch.float32}
    assert {p.grad.dtype for p in ps if p.grad is not None}=={torch.float32}
    with sn.active(subs[0]): sn.model.train()(xb.float()).sum().backward()
    sn.model.double()
    assert sn.extract(subs[0])(xb).dtype==torch.float64

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_held_parameters_follow_the_model_to_the_gpu():
    sn, subs = holding()
    want, ps = outs(sn, subs), sn.held_params()
    sn.model.cuda()
    assert all(is_close(a.cpu(), b, 1e-6) for a,b in zip(outs(sn, subs), want))
    assert all(a is b and a.is_cuda for a,b in zip(sn.held_params(), ps))

def save_and_load(d):
    f = io.BytesIO()
    torch.save(d, f)
    f.seek(0)
    return torch.load(f, weights_only=True)

def test_state_goes_round():
    sn, subs = holding()
    want, d = outs(sn, subs), save_and_load(sn.state_dict())
    other = kernels(seed=5)
    new = Supernet(other.extract(other.space.max), xb, kernels={'3':(3,5,7)}, check=False)
    new.model.load_state_dict({k:t for k,t in sn.model.state_dict().items() if k[:5]!='held_'})
    assert not any(map(torch.equal, outs(new, subs), want))
    new.load_state_dict(d)
    assert all(map(torch.equal, outs(new, subs), want)) and new.private==sn.private and [*new.stats]==[*sn.stats]
    assert [p.shape for p in new.held_params()]==[p.shape for p in sn.held_params()]
    new.forget_stats()
    assert [*new.stats]==[subs[0]]

@torch.no_grad()
def shift_statistics(sn, s):
    for ts in sn.stats[s].values(): ts['running_mean'] += 1

def test_state_is_a_copy_and_parameters_stay():
    sn, (private, calibrated, plain) = holding()
    subs = private, calibrated, plain
    want, ps, d = outs(sn, subs), sn.held_params(), sn.state_dict()
    buffers = copy.deepcopy(sn.model.state_dict())
    shake(sn, 4)
    sn.private_bn(plain)
    shift_statistics(sn, calibrated)
    sn.load_state_dict(d)
    assert all(map(torch.equal, outs(sn, subs), want))
    assert len(sn.held_params())==len(ps) and all(a is b for a,b in zip(sn.held_params(), ps))
    assert plain not in sn.private and plain not in sn.stats
    sn.stats.pop(calibrated)
    sn.load_state_dict(d) # statistics of a subnet that is new here are tensors of its own
    shift_statistics(sn, calibrated)
    assert same(sn.model.state_dict(), buffers)

misfits = { # what is wrong: (a change of the state `d`, where `s` is its private subnet, and what is said)
    'no private': (lambda d,s: d.pop('private'), "has the keys .*got .'version'"),
    'another version': (lambda d,s: d.update(version=2), 'version 1'),
    'no statistics of a layer': (lambda d,s: d['stats'][s].pop('1'), "stats: '1' is missing"),
    'unknown layer': (lambda d,s: d['stats'][s].update(nope={}), "stats: 'nope' is not in this supernet; 1, 4 is"),
    'no bias': (lambda d,s: d['stats'][s]['1'].pop('bias'), "stats.1: 'bias' is missing"),
    'no statistics': (lambda d,s: d['stats'].pop(s), 'are missing'),
    'another shape': (lambda d,s: d['stats'][s]['4'].update(weight=torch.ones(3)),
                      r'stats.4.weight: a tensor of shape \(2,\) is expected, got \(3,\)'),
    'a number': (lambda d,s: d['stats'][s]['4'].update(weight=3),
                 r'stats.4.weight: a tensor of shape \(2,\) is expected, got 3'),
    'matrices of an unknown layer': (lambda d,s: d['matrices'].update(nope={}),
                                     "matrices: 'nope' is not in this supernet; 3 is"),
    'a matrix less': (lambda d,s: d['matrices']['3'].pop(5), 'matrices.3: 5 is missing'),
    'half a subnet': (lambda d,s: d['stats'].update({s[:30]:{}}), 'cut short'),
    "a subnet that isn't whole": (lambda d,s: d['stats'].update({Subnet(width={'0':8}).to_json():{}}), 'is missing')}

@pytest.mark.parametrize('misfit', misfits)
def test_state_that_does_not_fit_changes_nothing(misfit):
    change, match = misfits[misfit]
    sn, subs = holding()
    d = sn.state_dict()
    shake(sn, 7)
    want = outs(sn, subs)
    change(d, subs[0].to_json())
    fails(match, lambda: sn.load_state_dict(d))
    assert all(map(torch.equal, outs(sn, subs), want))
