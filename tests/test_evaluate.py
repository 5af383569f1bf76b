"Evaluating many subnets: known figures are looked up, data is read once, callbacks that make data come along"
import json, warnings
import pytest, torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy, error_rate, mse
from fastai.torch_core import no_random
from torch import nn
from elastic_nets.use import evaluate
from elastic_nets.use.evaluate import evaluate_subnets, pareto, plot_pareto, read_table, score_supernet
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

def test_a_file_of_something_else_stays_as_it_is(learn, work, tmp_path):
    "And folders are made before anything is evaluated"
    for data in (b'[1]\n', b'\x80\x81', b'{"a": 1}\n'):
        (tmp_path/'f').write_bytes(data)
        with pytest.raises(ValueError, match='cache: .* is a file of something else'):
            evaluate_subnets(learn, some(learn), cache=tmp_path/'f')
        assert (tmp_path/'f').read_bytes()==data and not work
    evaluate_subnets(learn, some(learn, 1), calibrate=0, cache=tmp_path/'new/folder/f')
    assert (tmp_path/'new/folder/f').exists()
    (tmp_path/'f').write_bytes(b'')
    with pytest.raises(ValueError, match='is no CSV file'): read_table(tmp_path/'f')

def test_all_metrics_of_the_learner_are_shown():
    learn = new_learner()
    learn.metrics += [error_rate]
    t = evaluate_subnets(learn, some(learn, 2), calibrate=0)
    assert list(t.columns)==['subnet','macs','params','accuracy','error_rate']
    assert (t.accuracy+t.error_rate).tolist()==pytest.approx([1]*len(t))
    assert 'error_rate' not in evaluate_subnets(learn, some(learn, 2), accuracy, calibrate=0)

def confidence(pred, y): return pred.softmax(1).amax(1).mean()

def test_a_metric_that_does_not_say_its_direction_is_said(learn):
    "Once `lower` is given, nobody asks again: neither the picture nor the front of a score"
    t = evaluate_subnets(learn, some(learn), confidence, calibrate=0)
    with pytest.warns(UserWarning, match='confidence, does not say whether less of it is better'): up = pareto(t)
    def score(**kw): return score_supernet(learn, learn.dls.test, some(learn), metric=confidence, calibrate=100, **kw)
    with pytest.warns(UserWarning, match='confidence'): score()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert pareto(t, lower=False).equals(up) and not pareto(t, lower=True).equals(up)
        front = score(lower=True).front
        assert pareto(front, metric='valid').equals(front)
        plot_pareto(front, metric='test', by='valid')
        pareto(evaluate_subnets(learn, some(learn), calibrate=0))

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
