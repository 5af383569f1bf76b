"Any fastai fit goes on as if nothing had happened while the network grows: in width, and what both callbacks share"
import copy, warnings
from functools import partial
import numpy as np, pytest, torch
from fastai.vision.all import (
    Callback, EarlyStoppingCallback, GradientAccumulation, OptimWrapper, ReduceLROnPlateau, SGD, SaveModelCallback,
    default_split, resnet18, vision_learner)
from torch import nn
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.growing import GrowDepth, GrowWidth, past_of
from elastic_nets.grow.widen import start_narrow
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.subnets.cost import macs
from helpers import optimizers, quietly
from helpers_grow import Stop, StopInEpoch, Watch, all_move, data, deep, flat, is_as, learner, net, shapes, values

def unchanged(learn, match, n=3, **kwargs):
    "A fit with `GrowWidth(**kwargs)` raises, and nothing has been changed"
    before = values(learn.model)
    with pytest.raises(ValueError, match=match): quietly(learn, 'fit', n, cbs=GrowWidth(**kwargs))
    assert is_as(learn.model, before)

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle'])
@pytest.mark.parametrize('opt', ['sgd', 'adam', 'adamw'])
def test_fit_goes_on(fit, opt):
    "The same batches and learning rates as without growth; every parameter is trained at every size"
    dense, grown = [learner(opt_func=optimizers[opt]) for _ in range(2)]
    a, b, cb = Watch(), Watch(), GrowWidth(start=.5, stages=3)
    quietly(dense, fit, 4, .01, cbs=a)
    quietly(grown, fit, 4, .01, cbs=[b, cb])
    n = 4*len(grown.dls.train)
    starts = [0, round(n/3), round(2*n/3)]
    assert grown.recorder.lrs == dense.recorder.lrs and len(grown.recorder.lrs)==n
    assert b.ys == a.ys, 'growing must not change the order of the data'
    assert b.sizes == [4]*starts[1] + [6]*(starts[2]-starts[1]) + [8]*(n-starts[2])
    assert all(p is q for p,q in zip(grown.model.parameters(), b.first))
    assert [p for g in grown.opt.param_lists for p in g] == b.first
    assert len(b.moved) == 3*len(b.first)-2 # the stem reads pictures, the head writes classes
    assert shapes(grown.model) == shapes(net())
    assert [(r['step'], r['width']) for r in cb.rows] == list(zip(starts, (.5,.75,1.)))
    assert all(r['seconds']>0 for r in cb.rows)
    xb = grown.dls.one_batch()[0]
    for r in cb.rows:
        m = net()
        if r['width']<1: start_narrow(m, trace_channels(m, xb), r['width'])
        assert r['macs']==macs(m, xb)
    assert grown.recorder.losses[-1] < grown.recorder.losses[0]

class Exact(Callback):
    "Do the batch norms have the statistics of the network as it is validated?"
    order = 50
    def before_fit(self): self.exact = []
    def before_validate(self):
        fresh = calibrate_bn(copy.deepcopy(self.learn.model), self.dls.train)
        pairs = [(a, b) for (n,a),b in zip(self.learn.model.named_buffers(), fresh.buffers()) if 'running' in n]
        self.exact.append(all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a,b in pairs))

def test_validation_after_growth_has_fresh_statistics():
    spy = Exact()
    quietly(learner(), 'fit', 6, .01, cbs=[GrowWidth(stages=3), spy])
    assert spy.exact == [False, False, True, False, True, False]

def test_a_supernet_is_not_cut():
    learn = learner()
    learn.to_supernet()
    unchanged(learn, 'supernet')

def test_trained_model_is_not_cut():
    "Batch norms, the optimizer, frozen layers and vision_learner's flag tell that there are weights to lose"
    learn = quietly(learner(), 'fit', 1)
    unchanged(learn, 'statistics|steps')
    unchanged(learner(copy.deepcopy(learn.model)), 'statistics') # weights from somewhere else
    unchanged(quietly(learner(flat()), 'fit', 1), 'steps')
    v = vision_learner(data(), resnet18, pretrained=False, n_in=1, normalize=False)
    v.pretrained = True # what `vision_learner(pretrained=True)` leaves
    unchanged(v, 'pretrained')
    frozen = learner(splitter=default_split)
    frozen.freeze()
    frozen.model[0][1].train_bn = False
    unchanged(frozen, 'frozen')
    # the optimizer still knew the whole shapes
    quietly(learn, 'fit', 2, cbs=GrowWidth(stages=2, discard_pretrained=True))
    net().load_state_dict(learn.model.state_dict())

def test_optimizers_that_remember_from_the_start_are_not_a_past():
    "Adagrad has its sums before the first step"
    learn = learner(opt_func=partial(OptimWrapper, opt=torch.optim.Adagrad))
    learn.create_opt()
    assert past_of(learn)==''
    quietly(learn, 'fit', 2, .01, cbs=GrowWidth(stages=2))
    net().load_state_dict(learn.model.state_dict())

def test_lr_find_does_not_grow():
    "... neither while it runs, nor does it make a fresh model look trained"
    learn = learner(cbs=GrowWidth(stages=2))
    with learn.no_logging(): learn.lr_find(show_plot=False, num_it=20)
    assert learn.grow_width.rows == [] and learn.model.stem[0].out_channels == 8
    quietly(learn, 'fit', 2)
    assert len(learn.grow_width.rows) == 2

@pytest.mark.parametrize('grow', [GrowWidth, GrowDepth])
def test_validation_is_no_fit(grow):
    "A callback of the learner leaves `validate` and `get_preds` alone, before the fit and after it"
    learn = learner(deep() if grow is GrowDepth else None, cbs=grow(stages=2, discard_pretrained=True))
    cb = learn.cbs[-1]
    def look():
        before = shapes(learn.model)
        with warnings.catch_warnings(), learn.no_logging(), learn.no_bar():
            warnings.simplefilter('error')
            for _ in range(2):
                learn.validate()
                learn.get_preds()
        assert shapes(learn.model)==before
    look()
    quietly(learn, 'fit', 2)
    assert len(cb.rows)==2
    look()
    assert len(cb.rows)==2 and learn.recorder.stages is cb.rows

@pytest.mark.parametrize('cb,model', [(GrowWidth, net), (GrowDepth, deep)], ids=['width','depth'])
def test_early_end_can_be_finished(cb, model):
    learn = learner(model())
    with pytest.warns(UserWarning, match=f'{cb.by} 0.5'): quietly(learn, 'fit', 3, cbs=[cb(), Stop()])
    assert len(learn.model.state_dict())<len(model().state_dict()) or shapes(learn.model)!=shapes(model())
    learn.finish_growing()
    model().load_state_dict(learn.model.state_dict())
    assert not hasattr(learn.model, 'growth')
    has_fresh_statistics(learn)
    assert all_move(lambda: quietly(learn, 'fit', 1), learn.model)

def has_fresh_statistics(learn):
    again = calibrate_bn(copy.deepcopy(learn.model), learn.dls.train)
    for (n,a),b in zip(learn.model.named_buffers(), again.buffers()):
        if 'running' in n: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

def test_an_early_end_saves_and_recalibrates(tmp_path):
    "Stopped between a growth and its validation: the checkpoint is of the model as it is, with fresh statistics"
    learn = learner(path=tmp_path)
    quietly(learn, 'fit', 4, 1e-2, cbs=[GrowWidth(stages=2), SaveModelCallback(at_end=True), StopInEpoch()])
    has_fresh_statistics(learn)
    now = values(learn.model)
    learn.load('model')
    assert is_as(learn.model, now)

def test_a_cancelled_fit_does_not_load_a_smaller_best(tmp_path):
    learn = learner(path=tmp_path)
    quietly(learn, 'fit', 4, 1e-2, cbs=[GrowWidth(stages=2), SaveModelCallback(), StopInEpoch()])
    assert learn.model.stem[0].out_channels==8 and not hasattr(learn.model, 'growth')

def test_save_model_starts_again_with_each_stage(tmp_path):
    "The best file of a narrow stage would not load into the grown network"
    learn = learner(path=tmp_path, opt_func=SGD)
    save = SaveModelCallback(monitor='valid_loss', comp=np.greater) # the first epoch is the "best"
    quietly(learn, 'fit', 4, 1e-2, cbs=[GrowWidth(stages=2), save])
    assert learn.model[0][0].out_channels==8

def test_trackers_start_again_with_each_stage():
    "The grown network is not measured by what the smaller one had reached"
    class Loss(Callback): # as if growth had cost much
        order = 55
        def after_epoch(self): self.learn.recorder.log[2] = 1. if self.epoch<2 else 5.-self.epoch/10
    learn, trackers = learner(metrics=[]), [EarlyStoppingCallback(patience=3), ReduceLROnPlateau(patience=3)]
    quietly(learn, 'fit', 6, 1e-2, cbs=[GrowWidth(stages=3), Loss(), *trackers])
    assert len(learn.recorder.values)==6 and learn.opt.hypers[0]['lr']==1e-2

def test_start_epoch():
    "Skipped epochs count: the fit starts at the width that its first batch would have had"
    cb, w = GrowWidth(), Watch()
    learn = quietly(learner(), 'fit', 6, start_epoch=2, cbs=[cb, w])
    n = len(learn.dls.train)
    assert w.sizes == [6]*2*n + [8]*2*n and [r['step'] for r in cb.rows] == [2*n, 2*n, 4*n]

@pytest.mark.parametrize('cb', [GrowWidth(), GrowDepth()], ids=['width','depth'])
def test_nothing_to_grow(cb):
    "A network without elastic channels, or without blocks, trains as it is, with a warning"
    learn = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.warns(UserWarning, match=f'{cb.counted} of this model cannot'): quietly(learn, 'fit', 3, cbs=cb)
    assert learn.model[1].in_features == 64

def test_accumulated_gradients_are_not_lost():
    "Growth waits for the step that is under way: every gradient that was accumulated is stepped with"
    class Count(Callback):
        order,run_valid = 200,False
        def before_fit(self): self.grew, self.was = [], self.learn.model.stem[0].out_channels
        def before_batch(self):
            accumulation = next(c for c in self.learn.cbs if isinstance(c, GradientAccumulation))
            if self.learn.model.stem[0].out_channels!=self.was: self.grew.append(accumulation.count)
            self.was = self.learn.model.stem[0].out_channels
    count, cb = Count(), GrowWidth(stages=2)
    learn = quietly(learner(), 'fit', 3, .01, cbs=[cb, count, GradientAccumulation(3*128)])
    assert count.grew == [0] and cb.rows[1]['step']>=round(1.5*len(learn.dls.train))

class Remembered(Callback):
    "How many tensors the optimizer remembers that are not zero, before each batch"
    order,run_valid = 200,False
    def before_fit(self): self.n = []
    def before_batch(self):
        states = getattr(self.opt, 'opt', self.opt).state.values()
        self.n.append(sum(isinstance(v, torch.Tensor) and bool(v.any()) for s in states for v in s.values()))

@pytest.mark.parametrize('carry', [True, False])
@pytest.mark.parametrize('grow,model,opt', [(GrowWidth,net,'sgd'), (GrowDepth,deep,'sgd'), (GrowDepth,deep,'adamw')])
def test_state_is_carried_or_forgotten(grow, model, opt, carry):
    remembered = Remembered()
    learn = learner(model(), opt_func=optimizers[opt])
    quietly(learn, 'fit', 2, .01, cbs=[grow(stages=2, carry_state=carry), remembered])
    assert (remembered.n[len(learn.dls.train)]>0) == carry

@pytest.mark.parametrize('freeze_epochs', [1, 3])
def test_fine_tune_grows_in_its_second_fit(freeze_epochs):
    "The head's fit stays at the first size, whatever its length; the second fit has all stages and its rates by group"
    cb, w = GrowWidth(stages=2), Watch()
    learn = learner(splitter=default_split)
    learn.pretrained = False # what vision_learner leaves
    quietly(learn, 'fine_tune', 2, 1e-2, freeze_epochs=freeze_epochs, cbs=[cb, w])
    n = len(learn.dls.train)
    assert [(r['step'],r['width']) for r in cb.rows]==[(0,.5),(n,1.)] and w.sizes==[4]*n+[8]*n
    assert len(learn.opt.hypers)==2 and learn.opt.hypers[0]['lr']<learn.opt.hypers[1]['lr']
    net().load_state_dict(learn.model.state_dict())

def test_frozen_fit_says_that_it_does_not_grow():
    learn, said = learner(splitter=default_split), []
    learn.freeze()
    learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
    learn.fit(2, cbs=GrowWidth(stages=2, discard_pretrained=True))
    assert learn.model.stem[0].out_channels==4 and len(said)==1 and 'stays at width 0.5 in this fit' in said[0]

def test_frozen_groups_stay_frozen():
    "Growth keeps who is trained and with which rate"
    def split(m): return [list(part.parameters()) for part in (m[:2], m[2], m[3:])]
    learn = learner(splitter=split)
    learn.freeze_to(1)
    quietly(learn, 'fit', 2, slice(1e-4, 1e-2), cbs=GrowWidth(stages=2, discard_pretrained=True))
    norms = {id(p) for l in learn.model.modules() if isinstance(l, nn.BatchNorm2d) for p in l.parameters()}
    frozen, *trained = learn.opt.param_lists
    assert not any(p.requires_grad for p in frozen if id(p) not in norms)
    assert all(p.requires_grad for g in trained for p in g)
    assert [list(map(id, g)) for g in learn.opt.param_lists]==[list(map(id, g)) for g in split(learn.model)]

