"Evaluating many subnets: known figures are looked up, data is read once, callbacks that make data come along"
import json
import pytest, torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy, mse
from fastai.torch_core import no_random
from torch import nn
from elastic_nets.use import evaluate
from elastic_nets.use.evaluate import evaluate_subnets
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar

torch.set_num_threads(1)

def new_learner(**kw):
    with no_random(): learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy, **kw)
    learn.to_supernet(depths=(0,1))
    return learn

@pytest.fixture
def learn(): return new_learner()

@pytest.fixture
def work(monkeypatch):
    "How many networks each pass over the data has evaluated"
    passes, together = [], evaluate._validate_together
    monkeypatch.setattr(evaluate, '_validate_together', lambda owns, dl: passes.append(len(owns)) or together(owns, dl))
    return passes

def some(learn, n=4): return [learn.supernet.space.sample(i) for i in range(n)]

def test_together_or_one_by_one_is_the_same(learn, work):
    subs = some(learn)
    together = evaluate_subnets(learn, subs, calibrate=200, cache=False)
    alone = [evaluate_subnets(learn, s, calibrate=200, cache=False).accuracy[0] for s in subs]
    assert together.accuracy.tolist()==alone and work==[len({*subs}), *[1]*len(subs)]

def test_what_is_known_is_looked_up(learn, work):
    first = evaluate_subnets(learn, some(learn, 2), calibrate=200)
    again = evaluate_subnets(learn, some(learn), calibrate=200)
    assert work==[2,2] and again.accuracy.tolist()[:2]==first.accuracy.tolist()
    evaluate_subnets(learn, some(learn), calibrate=100)
    evaluate_subnets(learn, some(learn), calibrate=200, dl=learn.dls.test)
    assert work==[2,2,4,4]

def test_other_weights_are_evaluated_anew(learn, work):
    sub = learn.supernet.space.min
    evaluate_subnets(learn, sub, calibrate=200)
    with torch.no_grad(): next(learn.model.parameters()).add_(.1)
    evaluate_subnets(learn, sub, calibrate=200)
    learn.supernet.private_bn(sub)
    evaluate_subnets(learn, sub, calibrate=200)
    assert work==[1,1,1]

def test_an_interrupted_evaluation_goes_on(learn, work, tmp_path):
    file, subs = tmp_path/'known.jsonl', some(learn)
    first = evaluate_subnets(learn, subs[:3], calibrate=200, cache=file)
    text = file.read_text()
    file.write_text(text+text.splitlines()[0][:40]) # cut in the middle of a line
    again = evaluate_subnets(new_learner(), subs, calibrate=200, cache=file) # nothing in memory
    assert work==[3,1] and again.accuracy.tolist()[:3]==first.accuracy.tolist()
    other = new_learner()
    with torch.no_grad(): next(other.model.parameters()).add_(.1)
    evaluate_subnets(other, subs, calibrate=200, cache=file)
    assert work==[3,1,4] and {len(json.loads(l)['values']) for l in text.splitlines()}=={1}

class Reconstruct(Callback):
    def before_batch(self): self.learn.yb = self.xb

class Brighter(Callback):
    def before_batch(self): self.learn.xb = tuple(2*x+1 for x in self.xb)

def mirror(): # an autoencoder
    net = nn.Sequential(nn.Flatten(), nn.Linear(64,32), nn.ReLU(), nn.Linear(32,64), nn.Unflatten(1,(1,8,8)))
    return Learner(digits_dls(device='cpu'), net, loss_func=MSELossFlat(), metrics=mse, cbs=Reconstruct())

def test_a_callback_that_makes_targets_comes_along():
    learn = mirror()
    sn = learn.to_supernet()
    with learn.no_bar(): want = learn.validate()[1]
    assert evaluate_subnets(learn, sn.space.max).mse[0]==pytest.approx(want, rel=1e-5)
    small = learn.subnet(sn.space.max)
    with small.no_bar(): assert small.validate()[1]==pytest.approx(want, rel=1e-5)

def test_statistics_are_those_of_the_inputs_that_callbacks_make():
    learn = new_learner(cbs=Brighter())
    sub = learn.supernet.space.uniform(.5)
    first = next(m for m in learn.subnet(sub).model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean
    bare = next(m for m in new_learner().subnet(sub).model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean
    assert not torch.allclose(first, bare, atol=1e-2)
    with learn.no_bar(), (one := learn.subnet(sub)).no_bar(): want = one.validate()[1]
    assert evaluate_subnets(learn, sub).accuracy[0]==pytest.approx(want)

class MyLearner(Learner):
    def hello(self): return 'hello'

def test_a_subnet_keeps_the_class_of_the_learner():
    learn = MyLearner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1))
    assert learn.subnet(learn.to_supernet().space.min).hello()=='hello'
