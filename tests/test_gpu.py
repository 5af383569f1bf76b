"What needs a GPU: `make test-gpu` runs it, and says so where there is none"
import shutil
from functools import partial
import pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from elastic_nets.all import (
    Bfloat16, ElasticCheckpoint, GrowDepth, GrowWidth, OnionTraining, delayed_shrinking, digits_dls,
    evaluate_subnets, resnet_cifar, us_net, vit)
from helpers import close, quietly

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU'), pytest.mark.xdist_group('gpu')]

def learner(model=None, space=None, **kwargs):
    torch.manual_seed(0)
    model = model or resnet_cifar(8, width=16, n_in=1)
    learn = Learner(digits_dls(bs=256, device='cuda'), model, metrics=accuracy, opt_func=partial(SGD, mom=.9), **kwargs)
    learn.remove_cb(ProgressCallback)
    if space: learn.to_supernet(**space)
    return learn

def fit(learn, *cbs, n=3): return quietly(learn, 'fit_one_cycle', n, .1, cbs=[*cbs])

def onion(recipe=None): return OnionTraining(recipe or us_net(k=3), watch=('min',), estimate=False)

class Overflows(Callback):
    "In the fourth step the loss of one network is too large for float16; what is left of the step?"
    order = 9 # behind OnionTraining, before the scaler looks
    def __init__(self, which): self.which, self.steps, self.kept, self.scales = which, 0, [], []
    def weights(self): return [p.detach().clone() for p in self.model.parameters()]
    def before_batch(self): self.was = self.weights() if self.training else None
    def after_net(self, net, loss):
        onion = self.learn.onion_training
        if self.learn.train_iter!=3 or onion.nets.index(net)!=self.which: return
        next(self.model.parameters()).grad.mul_(float('inf'))
    def after_batch(self):
        if not self.training: return
        self.kept.append(all(torch.equal(p, q) for p,q in zip(self.was, self.weights())))
        self.scales.append(self.learn.scaler.get_scale())

@pytest.mark.parametrize('which', [0, 1, 2], ids=['full network', 'a subnet', 'the smallest'])
def test_an_overflow_in_one_network_skips_the_step_as_a_whole(which):
    learn = learner(space=dict(widths=(.25,.5,1.))).to_fp16(init_scale=2.**8)
    fit(learn, onion(), watch := Overflows(which))
    assert [i for i,k in enumerate(watch.kept) if k]==[3]
    assert watch.scales[3]==watch.scales[2]/2
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())

def test_fp16_trains_the_family():
    learn = learner(space=dict(widths=(.5,1.))).to_fp16()
    fit(learn, onion(), n=8)
    table = evaluate_subnets(learn, [learn.supernet.space.min, learn.supernet.space.max])
    assert (table.accuracy>.8).all(), table

@pytest.mark.parametrize('half', [Bfloat16, MixedPrecision])
@pytest.mark.parametrize('grow', [GrowWidth, GrowDepth])
def test_growth_in_mixed_precision_and_channels_last(grow, half):
    model = resnet_cifar(8, width=16, n_in=1) if grow is GrowWidth else resnet_cifar(20, width=8, n_in=1)
    learn = learner(model)
    fit(learn, grow(stages=2), half(), ChannelsLast(), n=4)
    convs = [p for p in learn.model.parameters() if p.ndim==4 and p.shape[1]>1 and p.shape[-1]>1]
    assert all(p.is_cuda and p.is_contiguous(memory_format=torch.channels_last) for p in convs)
    assert not hasattr(learn.model, 'growth') and learn.validate()[1]>.5

@pytest.mark.skipif(not any(map(shutil.which, ('cc','gcc','clang'))), reason='torch.compile needs a C compiler')
def test_compiled_stages():
    learn = learner(vit(img=8, patch=4, dim=32, depth=2, heads=2, n_in=1))
    fit(learn, grow := GrowWidth(stages=2, compile=True), n=2)
    assert [round(r['width'], 2) for r in grow.rows]==[.5, 1.]

@pytest.mark.parametrize('cpu', [True, False])
def test_a_learner_from_a_file(tmp_path, cpu):
    learn = fit(learner(space=dict(widths=(.5,1.)), path=tmp_path), onion())
    learn.export('all.pkl')
    back = load_learner(tmp_path/'all.pkl', cpu=cpu)
    back.model = back.model.to('cpu' if cpu else 'cuda')
    x = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor).double() # a card rounds float32 to 10 bits, TF32
    for net in (learn.supernet.space.min, learn.supernet.space.max):
        mine, theirs = [of.supernet.extract(net).eval().double() for of in (learn, back)]
        close(mine(x).cpu(), theirs(x.to(next(theirs.parameters()).device)).cpu())

class Dies(Callback):
    def after_batch(self):
        if self.training and self.learn.train_iter==9: raise KeyboardInterrupt

@pytest.mark.parametrize('kind', ['grow','shrink'])
def test_a_fit_in_fp16_goes_on(tmp_path, kind):
    "The scaler, the network's size and the optimizer's state come back to the card"
    def make(): return learner(space=None if kind=='grow' else dict(widths=(.5,1.))).to_fp16()
    def cbs(): return [GrowWidth(stages=2) if kind=='grow' else onion(delayed_shrinking(k=2))]
    whole = fit(make(), *cbs())
    with pytest.raises(KeyboardInterrupt): fit(make(), *cbs(), Dies(), ElasticCheckpoint(tmp_path, every=2))
    again = fit(make(), *cbs(), ElasticCheckpoint(tmp_path, every=2))
    for p,q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert q.is_cuda and (p-q).abs().max()<1e-2 # a card adds in another order each time
