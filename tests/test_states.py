"A model becomes elastic a second time, out of a pickle, compiled, half grown, with other layers; and plain again"
import copy, io
import pytest, torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch import nn
from elastic_nets.all import GrowWidth, OnionTraining, Supernet, bignas, digits_dls, resnet_cifar
from helpers import fails, quietly, same

xb = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

def model(): return resnet_cifar(8, n_in=1).eval()

def learner(m=None): return Learner(digits_dls(bs=256, device='cpu'), m or resnet_cifar(8, n_in=1))

def onion(): return OnionTraining(bignas(2), estimate=False, watch=())

def pickled(m):
    f = io.BytesIO()
    torch.save(m, f)
    f.seek(0)
    return torch.load(f, weights_only=False)

def works(sn):
    "Active is extracted for the smallest, and the full network has gradients everywhere"
    m, s = sn.model.eval(), sn.space.min
    with sn.active(s): torch.testing.assert_close(m(xb), sn.extract(s)(xb), rtol=1e-4, atol=1e-5)
    assert m(xb).shape==(4, 10)
    return sn

# ---- twice

SECOND = {'the same cell again': lambda m: m, 'out of a pickle': pickled, 'a copy': copy.deepcopy}

@pytest.mark.parametrize('how', SECOND)
@pytest.mark.parametrize('active', [False, True])
def test_elastic_a_second_time(how, active):
    m = model()
    want, keys = m(xb), list(m.state_dict())
    first = Supernet(m, xb)
    if active: first.set_active(first.space.min)
    again = SECOND[how](m)
    sn = works(Supernet(again, xb, widths=(.5,1.), depths=(0,1)))
    assert torch.equal(again(xb), want) and list(again.state_dict())==keys and sn.space!=first.space
    if again is not m: # its supernet goes on
        assert works(first).model is m
        return
    for call in (lambda: first.set_active(first.space.min), lambda: first.macs(first.space.min),
                 lambda: first.extract(first.space.min), first.plain):
        fails('this Supernet has ended.*use the Supernet that came of it', call)

def test_a_new_learner_around_an_elastic_model():
    old = learner()
    old.to_supernet()
    new = learner(old.model)
    assert new.to_supernet().model is old.model
    quietly(new, 'fit', 1, cbs=onion())
    works(new.supernet)
    fails('learn.supernet has ended', lambda: quietly(old, 'fit', 1, cbs=onion()))
    old.to_supernet()
    quietly(old, 'fit', 1, cbs=onion())

def test_what_subnets_have_of_their_own_goes_over():
    m = model()
    sn = Supernet(m, xb, widths=(.5,1.))
    sn.private_bn(sn.space.min)
    sn.trained = True
    same_choices = Supernet(m, xb, widths=(.5,1.))
    assert same_choices.private==sn.private and same_choices.trained
    assert all(a is b for a,b in zip(same_choices.held_params(), sn.held_params(), strict=True))
    with pytest.warns(UserWarning, match='1 private batch norms'): other = Supernet(m, xb, widths=(.25,1.))
    assert not other.private and other.trained

def test_a_refused_second_time_leaves_the_first():
    sn = Supernet(model(), xb)
    fails('a width is a share', lambda: Supernet(sn.model, xb, widths=(2.,)))
    works(sn)

def test_parts_of_an_elastic_model():
    whole = nn.Sequential(model(), nn.Linear(10, 3))
    part = Supernet(whole[0], xb)
    sn = Supernet(whole, xb)
    fails('has ended', lambda: part.set_active(None))
    sn.set_active(sn.space.min)
    assert works(Supernet(whole[0], xb)) and whole(xb).shape==(4, 3)
    fails('has ended', lambda: sn.set_active(None))

@pytest.mark.parametrize('how', ['a wrapper', 'in place'])
def test_a_compiled_model(how):
    m = model()
    want = m(xb)
    compiled = torch.compile(m, backend='eager') if how=='a wrapper' else m
    if how=='in place': m.compile(backend='eager')
    with pytest.warns(UserWarning, match='compiled'): sn = works(Supernet(compiled, xb))
    assert sn.model is m and torch.equal(m(xb), want)

def test_a_learner_of_a_compiled_model():
    m = resnet_cifar(8, n_in=1)
    l = learner(torch.compile(m, backend='eager'))
    with pytest.warns(UserWarning, match='compiled'): l.to_supernet()
    assert l.model is m
    quietly(l, 'fit', 1, cbs=onion())

# ---- back

def test_plain_again():
    m = model()
    twin = copy.deepcopy(m)
    params, sn = [*m.parameters()], Supernet(m, xb, depths=(0,1), kernels=(1,3))
    sn.set_active(sn.space.min)
    assert sn.plain() is m
    assert all(a is b for a,b in zip(m.parameters(), params, strict=True)) and same(m.state_dict(), twin.state_dict())
    assert [type(x) for x in m.modules()]==[type(x) for x in twin.modules()]
    assert [{*vars(x)} for x in m.modules()]==[{*vars(x)} for x in twin.modules()]
    assert torch.equal(m(xb), twin(xb)) and not any('_cut' in vars(x) for x in m.modules())
    fails('has ended, `plain', sn.plain)
    works(Supernet(m, xb))

def test_a_learner_s_plain_model():
    l = learner()
    l.to_supernet().plain()
    fails('learn.supernet has ended', lambda: l.subnet(None))
    quietly(l, 'fit', 1)

# ---- layers that were replaced

def test_synchronised_batch_norms():
    class AsDistributedTrainer(Callback):
        order = 11
        def before_fit(self): nn.SyncBatchNorm.convert_sync_batchnorm(self.learn.model)
    l = learner()
    sn = l.to_supernet()
    graph = sn.graph
    quietly(l, 'fit', 1, cbs=[onion(), AsDistributedTrainer()])
    assert any(isinstance(m, nn.SyncBatchNorm) for m in sn.layers.values()) and sn.graph is graph
    works(sn)
    assert not any(type(m).__name__.startswith('Elastic') for m in sn.plain().modules())

def heads():
    yield nn.Linear(64, 7)
    yield nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 7))

@pytest.mark.parametrize('head', [*heads()], ids=['linear','two layers'])
@pytest.mark.parametrize('known', [True, False], ids=['', 'pickled in between'])
def test_a_new_head(head, known):
    sn = Supernet(resnet_cifar(8, n_in=1), xb)
    if not known: sn = pickled(sn)
    space, m = sn.space, sn.model.eval()
    m.head.fc = head
    s = space.min
    with sn.active(s): y = m(xb)
    assert y.shape==(4, 7) and sn.space is space
    torch.testing.assert_close(y, sn.extract(s)(xb), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in sn.extract(s).parameters())==sn.n_params(s)

@pytest.mark.parametrize('again', [False, True], ids=['taken in','made elastic again'])
def test_norms_of_a_new_head_become_private_too(again):
    sn = Supernet(resnet_cifar(8, n_in=1), xb)
    s = sn.space.min
    sn.private_bn(s)
    old = sn.stats[s]['stem.bn']['weight']
    sn.model.head.fc = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 7))
    if again: sn = Supernet(sn.model, xb)
    with sn.active(s): sn.model.eval()(xb)
    assert sn.stats[s]['stem.bn']['weight'] is old and 'head.fc.0' in sn.stats[s]
    with torch.no_grad(): sn.stats[s]['head.fc.0']['bias'] += 3
    small = sn.extract(s).eval()
    with sn.active(s): torch.testing.assert_close(sn.model(xb), small(xb), rtol=1e-4, atol=1e-5)
    assert torch.equal(small.head.fc[0].bias, sn.stats[s]['head.fc.0']['bias']) and not sn.model.head.fc[0].bias.any()
    assert any(p is sn.stats[s]['head.fc.0']['bias'] for p in sn.held_params())

def test_a_replacement_in_the_middle_of_a_subnet():
    sn = Supernet(model(), xb)
    with sn.active(sn.space.min):
        sn.model.head.fc = nn.Linear(64, 10)
        small = sn.extract(sn.space.min)
        torch.testing.assert_close(sn.model(xb), small(xb), rtol=1e-4, atol=1e-5)

def test_a_replacement_with_other_subnets():
    sn = Supernet(model(), xb)
    sn.model.stem.conv = nn.Conv2d(1, 12, 3, padding=1)
    fails('other layers than when it became elastic.*make it elastic again', lambda: sn.set_active(sn.space.min))

# ---- half grown

@pytest.mark.parametrize('submodule', ['', 'layer2'])
def test_half_grown(submodule):
    class Stop(Callback):
        order = 90
        def after_epoch(self): raise KeyboardInterrupt
    l = learner()
    growing = GrowWidth(start=.5, stages=3, submodule=submodule)
    with pytest.raises(KeyboardInterrupt): quietly(l, 'fit', 3, cbs=[growing, Stop()])
    for m,call in ((l.model, l.to_supernet), (None, lambda: Supernet(nn.Sequential(l.model), xb))):
        fails(r'half grown \(width 0.5.*finish_growing', call)
    l.finish_growing()
    works(l.to_supernet())

def test_a_user_s_own_attribute_of_that_name():
    m = model()
    m.growth = .3
    works(Supernet(m, xb))
