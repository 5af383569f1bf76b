"ElasticCheckpoint: fits that go on end as if nothing had happened, and files that do not suit are refused"
import os, pickle, random, warnings
from functools import partial
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam, OptimWrapper, ranger
from fastai.torch_core import set_seed
from torch import nn
from elastic_nets.all import (
    ByImportance, Construct, Delayed, ElasticCheckpoint, Gradient, GrowDepth, GrowWidth, OnionTraining, OwnMomentum,
    RatePerSkin, Recipe, Update, combine_avg, delayed_shrinking, onion, progressive_shrinking, resnet_cifar, slimmable)
from elastic_nets.use import checkpoint

class Dropping(nn.Sequential):
    def __init__(self, n=16):
        super().__init__(nn.Linear(6, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Dropout(.3), nn.Linear(n, 3))

class Noisy:
    n_inp = 1
    "A data set that draws random numbers for each item, in this process or in a worker"
    def __init__(self, n=60): self.x, self.y = torch.randn(n, 6), torch.arange(n)%3
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i]+torch.rand(6)+random.random(), self.y[i]
    def new_empty(self): return Noisy(0)

def learner(model=Dropping, workers=0, opt=Adam, **kwargs):
    set_seed(0)
    train = DataLoader(Noisy(), bs=8, shuffle=True, num_workers=workers)
    dls = DataLoaders(train, DataLoader(Noisy(20), bs=10), device='cpu')
    learn = Learner(dls, model(), loss_func=nn.CrossEntropyLoss(), opt_func=opt, **kwargs)
    return learn.remove_cb(ProgressCallback)

class Images:
    def __init__(self, n=48): self.x, self.y = torch.randn(n, 1, 8, 8), torch.arange(n)%3
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]

def elastic(space=None, depth=8, opt=Adam, **kwargs):
    set_seed(0)
    dls = DataLoaders(DataLoader(Images(), bs=8, shuffle=True), DataLoader(Images(16), bs=8), device='cpu')
    model = resnet_cifar(depth, width=4, n_in=1, n_classes=3)
    learn = Learner(dls, model, loss_func=nn.CrossEntropyLoss(), opt_func=opt, **kwargs)
    if space: learn.to_supernet(**space)
    return learn.remove_cb(ProgressCallback)

class Dies(Callback):
    order = 90
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and self.learn.train_iter==self.at: raise KeyboardInterrupt

def everything(learn):
    "Tensors of the model, of what lives beside it, and of the optimizer"
    res = {}
    state = [checkpoint.opt_state(learn), [*learn.model.parameters(), *learn.model.buffers()]]
    if hasattr(learn, 'supernet'): state.append(learn.supernet.state_dict())
    checkpoint.pack([state, learn.recorder.losses], res)
    return [t.clone() for t in res.values()]

def fit(learn, *cbs, epochs=3):
    with learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.fit_one_cycle(epochs, 1e-2, cbs=[c for c in cbs if c is not None])
    return everything(learn)

def killed(learn, at, *cbs, **kwargs):
    with pytest.raises(KeyboardInterrupt): fit(learn, *cbs, Dies(at), **kwargs)

def same(a, b): return len(a)==len(b) and all(torch.equal(x, y) for x,y in zip(a, b))

def goes_on(make, folder, at=(5,13), every=2, callbacks=lambda: (), epochs=3):
    "Is a fit that died twice equal to one that did not?"
    whole = fit(make(), *callbacks(), epochs=epochs)
    for i in at: killed(make(), i, *callbacks(), ElasticCheckpoint(folder, every=every), epochs=epochs)
    return same(whole, fit(make(), *callbacks(), ElasticCheckpoint(folder, every=every), epochs=epochs))

# ---- what a plain fit needs

def torch_opt(cls, **kw): return partial(OptimWrapper, opt=partial(cls, **kw))

optimizers = {
    'SGD': partial(SGD, mom=.9), 'Adam': Adam, 'Lookahead': partial(ranger, k=3),
    'AdamW': torch_opt(torch.optim.AdamW), 'torch SGD': torch_opt(torch.optim.SGD, momentum=.9)}

@pytest.mark.parametrize('name', optimizers)
def test_optimizers(tmp_path, name):
    assert goes_on(lambda: learner(opt=optimizers[name]), tmp_path)

def test_workers(tmp_path):
    assert goes_on(lambda: learner(workers=2), tmp_path, at=(13,))

def test_only_at_the_end_of_epochs(tmp_path):
    assert goes_on(learner, tmp_path, at=(5,10,20), every=None)
    assert [p.name for p in sorted(tmp_path.iterdir())]==['00002-0000000.safetensors', '00003-0000000.safetensors']

@pytest.mark.parametrize('every', [1, 7, 8])
def test_at_the_border_of_an_epoch(tmp_path, every): # 8 batches
    assert goes_on(learner, tmp_path, at=(8,16), every=every)

@pytest.mark.parametrize('n', [16, 24, 40]) # 40 items: an accumulated step crosses the border of an epoch
def test_accumulated_gradients(tmp_path, n):
    cbs = lambda: [GradientAccumulation(n), GradientClip(.1)] # noqa: E731
    assert goes_on(learner, tmp_path, callbacks=cbs)

def test_groups_and_frozen_layers(tmp_path):
    def make():
        learn = learner(splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], [*m[4].parameters()]])
        learn.freeze()
        return learn
    assert goes_on(make, tmp_path)

def test_callbacks_remember(tmp_path):
    def make(): return learner(path=tmp_path, metrics=accuracy)
    seen = []
    def cbs():
        seen.append([SaveModelCallback(), EarlyStoppingCallback(patience=9), ReduceLROnPlateau(patience=9)])
        return seen[-1]
    assert goes_on(make, tmp_path/'runs', callbacks=cbs)
    first, last = [[(c.best, getattr(c, 'wait', None)) for c in seen[i]] for i in (0,-1)]
    assert first==last

class HalfOnCpu(MixedPrecision):
    "bfloat16 with a scaler of losses, which grows every third step"
    def before_fit(self):
        self.autocast, self.scales = torch.autocast('cpu', dtype=torch.bfloat16), []
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=8., growth_interval=3)

def test_mixed_precision(tmp_path):
    scales = []
    class Look(Callback):
        order = 70
        def after_batch(self):
            if self.training: scales.append(self.learn.scaler.get_scale())
    assert goes_on(learner, tmp_path, at=(13,), callbacks=lambda: [HalfOnCpu(), Look()])
    assert scales[-1]==scales[23]>=2**9

class Average(Callback):
    "A user's moving average of the weights"
    def before_fit(self): self.avg = [p.detach().clone() for p in self.model.parameters()]
    def after_step(self):
        for a,p in zip(self.avg, self.model.parameters()): a.lerp_(p.detach(), .1)
    def state_dict(self): return dict(avg=self.avg)
    def load_state_dict(self, state): self.avg = state['avg']

def test_a_users_callback_takes_part(tmp_path):
    whole, died, again = Average(), Average(), Average()
    fit(learner(), whole)
    killed(learner(), 13, died, ElasticCheckpoint(tmp_path, every=2))
    fit(learner(), again, ElasticCheckpoint(tmp_path, every=2))
    assert same(whole.avg, again.avg) and not same(whole.avg, died.avg)

def test_curves_have_no_hole(tmp_path):
    whole, again = learner(), learner()
    fit(whole)
    killed(learner(), 13, ElasticCheckpoint(tmp_path, every=2))
    fit(again, ElasticCheckpoint(tmp_path, every=2))
    assert whole.recorder.lrs==again.recorder.lrs and len(again.recorder.values)==3
    assert [list(v) for v in whole.recorder.values]==[list(v) for v in again.recorder.values]

def test_fine_tune_has_two_fits(tmp_path):
    def make(): return learner(splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], [*m[4].parameters()]])
    def tune(*cbs):
        learn = make()
        with learn.no_logging(): learn.fine_tune(2, 1e-2, cbs=list(cbs))
        return everything(learn)
    whole = tune()
    class DiesLate(Dies):
        def after_batch(self):
            if self.learn.n_epoch==2: super().after_batch()
    with pytest.raises(KeyboardInterrupt): tune(ElasticCheckpoint(tmp_path, every=2), DiesLate(5))
    assert same(whole, tune(ElasticCheckpoint(tmp_path, every=2)))

# ---- growing and shrinking

growing = {
    'width': lambda: GrowWidth(stages=3), 'rates': lambda: GrowWidth(stages=3, adapt_lr=True),
    'copies': lambda: GrowWidth(stages=2, init='net2net'), 'depth': lambda: GrowDepth(),
    'stack': lambda: GrowDepth(place='stack', zero_last=True), 'model': lambda: GrowDepth(block='model')}

@pytest.mark.parametrize('name', growing)
def test_growing(tmp_path, name):
    def make(): return elastic(depth=14, opt=partial(SGD, mom=.9))
    assert goes_on(make, tmp_path, at=(8,11), callbacks=lambda: [growing[name]()])

def test_stages_are_recorded_once(tmp_path):
    def grow(): return GrowWidth(stages=3)
    killed(elastic(), 8, grow(), ElasticCheckpoint(tmp_path, every=2))
    fit(learn := elastic(), cb := grow(), ElasticCheckpoint(tmp_path, every=2))
    assert [(r['step'], round(r['width'], 2)) for r in cb.rows]==[(0,.5), (6,.75), (12,1.)]
    assert learn.recorder.stages is cb.rows and not hasattr(learn.model, 'growth')

widths, everything_elastic = dict(widths=(.5,1.)), dict(widths=(.5,1.), depths=(.5,1.), kernels=(1,3))
recipes = {
    'delayed': (widths, delayed_shrinking(k=2, warmup=.3)), 'private': (widths, slimmable(k=2)),
    'statistics': (widths, onion(k=2)), 'ofa': (everything_elastic, progressive_shrinking()),
    'momenta': (widths, Recipe(Construct(k=2, levels=2, dims=('width',)), Gradient('hard'),
                               Update('large first', OwnMomentum), Delayed(0., 0.))),
    'some momenta': (dict(widths=(.25,.5,.75,1.)), Recipe(
        Construct(k=2, levels=4, dims=('width',)), Gradient('hard'), Update('large first', OwnMomentum),
        Delayed(0., 0.))),
    'odds': (dict(widths=(.25,.5,.75,1.)), Recipe(Construct(k=2, odds=ByImportance), schedule=Delayed(0., 0.))),
    'rates': (widths, Recipe(Construct(k=2), update=Update(rule=RatePerSkin), schedule=Delayed(0., 0.))),
    'average': (widths, Recipe(Construct(k=2), Gradient(combine=combine_avg), schedule=Delayed(.2, .3)))}

@pytest.mark.parametrize('name', recipes)
def test_recipes(tmp_path, name):
    space, recipe = recipes[name]
    def cbs(): return [OnionTraining(recipe, watch=('min',), estimate=False)]
    assert goes_on(lambda: elastic(space, 14 if 'depths' in space else 8), tmp_path, at=(11,), callbacks=cbs)

def test_a_given_teacher_and_accumulation(tmp_path):
    recipe = progressive_shrinking(teacher=0)
    def cbs():
        torch.manual_seed(5)
        teacher = resnet_cifar(14, width=4, n_in=1, n_classes=3)
        return [OnionTraining(recipe, teacher=teacher, estimate=False), GradientAccumulation(16)]
    assert goes_on(lambda: elastic(everything_elastic, 14), tmp_path, at=(11,), callbacks=cbs)

def test_a_supernet_without_a_recipe(tmp_path):
    def make():
        learn = elastic(widths)
        learn.supernet.private_bn(learn.supernet.space.min)
        return learn
    assert goes_on(make, tmp_path)

def test_a_script_of_two_fits(tmp_path):
    "The first grows, the second shrinks; a process that starts anew skips what is over"
    def script(*at):
        learn, cbs = elastic(), [[], []]
        if at: cbs = [[ElasticCheckpoint(tmp_path/name, every=2)] for name in ('grow','shrink')]
        if at and at[0]: cbs[1].append(Dies(at[0]))
        fit(learn, GrowWidth(stages=2), *cbs[0])
        learn.to_supernet(**widths)
        return fit(learn, OnionTraining(delayed_shrinking(k=2), estimate=False), *cbs[1])
    whole = script()
    with pytest.raises(KeyboardInterrupt): script(11)
    assert same(whole, script(None))

# ---- files

@pytest.fixture
def half(tmp_path):
    "A folder with the two files of a fit that died"
    killed(learner(), 13, ElasticCheckpoint(tmp_path, every=2))
    return sorted(tmp_path.glob('*.safetensors'))

def cut(path): os.truncate(path, path.stat().st_size-1)
def cut_short(path): os.truncate(path, 5)
def emptied(path): path.write_bytes(b'')
def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 4
    path.write_bytes(data)
def pickled(path): path.write_bytes(pickle.dumps(dict(a=1)))
def of_another(what, value):
    def damage(path):
        about, state = checkpoint.unseal(path.read_bytes())
        path.write_bytes(checkpoint.seal({**about, what:value}, state))
    return damage
others = [of_another(*how) for how in (('library version','0.0.0'), ('model','Sequential'), ('recipe','bignas()'))]

@pytest.mark.parametrize('damage', [cut, cut_short, emptied, flipped, pickled, *others])
def test_a_damaged_file_is_refused_and_the_one_before_is_used(half, damage):
    damage(half[-1])
    whole, learn = fit(learner()), learner()
    with pytest.warns(UserWarning, match=f'{half[-1].name} is refused, {half[0].name} is taken'), learn.no_logging():
        learn.fit_one_cycle(3, 1e-2, cbs=ElasticCheckpoint(half[0].parent, every=2))
    assert same(whole, everything(learn)) and half[-1].with_suffix('.refused').exists()

def refused(half, make=learner, cbs=(), epochs=3, lr=1e-2):
    learn = make()
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(ValueError) as e, learn.no_logging():
        learn.fit_one_cycle(epochs, lr, cbs=[*cbs, ElasticCheckpoint(half[0].parent)])
    assert same(before, [*learn.model.parameters()]), 'nothing has changed'
    assert all(p.exists() for p in half)
    return str(e.value)

def test_files_of_another_fit_are_refused(half):
    assert 'of another model' in refused(half, lambda: learner(lambda: Dropping(17)))
    assert 'of another epochs: 3, and here 4' in refused(half, epochs=4)
    assert 'of another schedules' in refused(half, lr=2e-2)
    assert 'of another optimizer' in refused(half, lambda: learner(opt=torch_opt(torch.optim.AdamW)))
    assert 'of another growth' in refused(half, cbs=[GrowWidth(stages=2)])

def test_another_recipe_is_refused(tmp_path):
    def cb(k, **kw): return OnionTraining(delayed_shrinking(k=k), estimate=False, **kw)
    killed(elastic(widths), 13, cb(2), ElasticCheckpoint(tmp_path))
    for other in (cb(3), cb(2, seed=1)):
        with pytest.raises(ValueError, match='of another recipe'):
            fit(elastic(widths), other, ElasticCheckpoint(tmp_path))
    with pytest.raises(ValueError, match='of another space'):
        fit(elastic(dict(widths=(.25,1.))), cb(2), ElasticCheckpoint(tmp_path))

def test_all_damaged_is_said_and_nothing_is_trained(half):
    for p in half: flipped(p)
    assert 'no file in' in refused(half) and 'start anew' in refused(half)

def test_a_full_disk(half):
    if not os.path.exists('/dev/full'): pytest.skip('no /dev/full')
    (half[0].parent/'saving.part').symlink_to('/dev/full')
    with pytest.raises(OSError, match='could not be written.*No space left on device'):
        fit(learner(), ElasticCheckpoint(half[0].parent, every=2))
    assert [checkpoint.unseal(p.read_bytes())[0]['epochs'] for p in half]==[3, 3]
    assert same(fit(learner()), fit(learner(), ElasticCheckpoint(half[0].parent, every=2)))

class Evil:
    def __reduce__(self): return os.system, ('touch executed',)

def test_nothing_is_executed(half, monkeypatch):
    monkeypatch.chdir(half[0].parent)
    half[-1].write_bytes(pickle.dumps(Evil()))
    torch.save(Evil(), half[0])
    monkeypatch.setattr(pickle, 'loads', None)
    refused(half)
    assert not os.path.exists('executed')

def test_only_plain_values_are_kept(tmp_path):
    class Bad(Average):
        def state_dict(self): return dict(f=print)
    with pytest.raises(TypeError, match='a checkpoint keeps numbers'):
        fit(learner(), Bad(), ElasticCheckpoint(tmp_path))
    assert list(tmp_path.iterdir())==[]

# ---- beside a fit

def test_other_methods_of_the_learner(tmp_path):
    learn = learner()
    learn.add_cb(ElasticCheckpoint(tmp_path/'runs'))
    learn.validate()
    learn.get_preds()
    with learn.no_logging(): learn.lr_find(show_plot=False, num_it=10)
    assert not (tmp_path/'runs').exists()
    learn.remove_cb(ElasticCheckpoint)
    assert not {'_do_fit','all_batches'} & {*vars(learn)}
    learn.export(tmp_path/'a.pkl')

@pytest.mark.parametrize('keep', [1, 3])
def test_files_that_are_kept(tmp_path, keep):
    fit(learner(), ElasticCheckpoint(tmp_path, every=3, keep=keep))
    names = ['00002-0000005', '00003-0000000'] if keep==1 else ['00002-0000005', '00002-0000008', '00003-0000000']
    assert sorted(p.stem for p in tmp_path.iterdir())==names[-keep:]
