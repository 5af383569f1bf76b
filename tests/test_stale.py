"Never a silently wrong number: what a supernet holds beside its model follows the weights, or says that it does not"
import copy, io, pickle, warnings
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.schedule import lr_find # noqa: F401, patches Learner
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from fastai.torch_core import no_random
from elastic_nets.shrink.methods import slimmable
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from helpers import quietly
from supernets import holding, kernels, outs, shake, xb

torch.set_num_threads(1)

def new_learner(path, **space):
    with no_random(): learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy, path=path)
    learn.to_supernet(**(space or dict(depths=(0,1))))
    return learn

@pytest.fixture
def learn(tmp_path): return new_learner(tmp_path)

@torch.no_grad()
def says(model, x): return model.eval()(x)

@torch.no_grad()
def shift(params):
    for p in params: p.add_(.2*torch.randn_like(p))

def load_other(learn):
    quietly(learn.save('now') and learn, 'fit', 1, 1e-2)
    learn.save('other')
    learn.load('now')
    learn.load('other')

def load_state(learn): learn.model.load_state_dict({k:t+.1 for k,t in learn.model.state_dict().items()})
def behind_its_back(learn): shift([next(learn.model.parameters()).data])
def half_precision(learn): learn.model.half().float()
def new_tensor(learn): learn.model[0][0].weight.data = torch.randn_like(learn.model[0][0].weight)
def train_by_hand(learn):
    opt = torch.optim.SGD(learn.model.parameters(), lr=.1)
    learn.model.train()(learn.dls.one_batch()[0]).square().mean().backward()
    opt.step()

changes = dict(load=load_other, state=load_state, fit=lambda learn: quietly(learn, 'fit', 1, 1e-2),
               one_weight=behind_its_back, half=half_precision, tensor=new_tensor, loop=train_by_hand)

@pytest.mark.parametrize('how', changes)
def test_recalibrated_statistics_are_those_of_the_weights(learn, how):
    "Active and taken out, a subnet has statistics that were measured on the weights of now; one warning"
    sn, dl = learn.supernet, learn.dls.train
    subs = [sn.space.uniform(.5), sn.space.min]
    for s in subs: sn.calibrate(s, dl, 200)
    x = torch.Tensor(learn.dls.valid.one_batch()[0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        changes[how](learn)
        found = []
        for s in subs:
            with sn.active(s): found.append(says(learn.model, x))
            assert torch.allclose(says(sn.extract(s), x), found[-1], atol=1e-4)
    n_said = len([w for w in said if 'weights have changed' in str(w.message)])
    assert 1<=n_said<=(2 if how=='load' else 1)
    sn.forget_stats()
    for s,y in zip(subs, found):
        want = says(calibrate_bn(sn.extract(s), dl, 200), x)
        assert torch.allclose(y, want, atol=1e-4), how

def test_weights_that_are_loaded_within_active(learn):
    sn, s, x = learn.supernet, learn.supernet.space.uniform(.5), torch.Tensor(learn.dls.valid.one_batch()[0])
    sn.calibrate(s, learn.dls.train, 200)
    with sn.active(s), pytest.warns(UserWarning, match='weights have changed'):
        load_state(learn)
        found = says(learn.model, x)
    assert torch.allclose(found, says(calibrate_bn(sn.extract(s), learn.dls.train, 200), x), atol=1e-4)

def test_batches_that_are_gone_are_said_to_be_gone(learn):
    sn, s = learn.supernet, learn.supernet.space.min
    sn.calibrate(s, iter([torch.randn(64,1,8,8)]))
    behind_its_back(learn)
    with pytest.warns(UserWarning, match='those of 1 are gone'): sn.extract(s)
    assert not sn.stats

def test_the_same_weights_keep_their_statistics(learn):
    "`lr_find` puts the weights back, and so does loading what was saved"
    sn, s = learn.supernet, learn.supernet.space.min
    sn.calibrate(s, iter([torch.randn(64,1,8,8)]))
    kept = sn.stats[s]
    with warnings.catch_warnings(), learn.no_bar():
        warnings.simplefilter('error', UserWarning)
        learn.lr_find(num_it=5, show_plot=False)
        learn.load(learn.save('same').stem if learn.save('same') else 'same')
        with sn.active(s): pass
    assert sn.stats[s] is kept

def test_a_subnet_that_is_trained_while_active_keeps_its_statistics_in_step(learn):
    sn, s = learn.supernet, learn.supernet.space.uniform(.5)
    sn.calibrate(s, learn.dls.train, 200)
    full = copy.deepcopy(dict(learn.model[0][1].named_buffers()))
    twin, x = sn.extract(s), torch.Tensor(learn.dls.one_batch()[0])
    sn.set_active(s)
    for m in (learn.model, twin): m.train()(x)
    assert torch.allclose(says(learn.model, x), says(twin, x), atol=1e-4)
    sn.set_active()
    assert all(torch.equal(t, full[k]) for k,t in learn.model[0][1].named_buffers())

def private_learner(path):
    learn = new_learner(path, widths=(.25,.5,1.))
    quietly(learn, 'fit', 1, 1e-2, cbs=OnionTraining(slimmable(3), estimate=False, watch=()))
    return learn

def test_private_norms_are_saved_and_loaded_with_the_model(tmp_path):
    learn = private_learner(tmp_path)
    sn, x = learn.supernet, torch.Tensor(learn.dls.valid.one_batch()[0])
    subs, held = [*sn.private], sn.held_params()
    want = [says(sn.extract(s), x) for s in subs]
    learn.save('a')
    shift([*learn.model.parameters(), *held])
    learn.load('a')
    assert all(torch.equal(says(sn.extract(s), x), y) for s,y in zip(subs, want))
    assert all(a is b for a,b in zip(sn.held_params(), held)) # an optimizer still knows them
    new = new_learner(tmp_path, widths=(.25,.5,1.)) # another process
    new.load('a')
    assert all(torch.equal(says(new.supernet.extract(s), x), y) for s,y in zip(subs, want))
    with pytest.raises(RuntimeError, match='held_by_supernet'): # never half of it
        resnet_cifar(8, n_in=1).load_state_dict(learn.model.state_dict())

def test_norms_of_other_weights_are_dropped(tmp_path):
    learn = new_learner(tmp_path, widths=(.25,.5,1.))
    learn.save('before')
    learn.supernet.private_bn(learn.supernet.space.min)
    with pytest.warns(UserWarning, match='no private batch norms'): learn.load('before')
    assert not learn.supernet.private and not learn.supernet.stats
    other = Learner(learn.dls, resnet_cifar(8, n_in=1, width=8))
    other.to_supernet().private_bn(other.supernet.space.min)
    with pytest.raises(RuntimeError, match='what the supernet holds'):
        learn.model.load_state_dict({**learn.model.state_dict(), **{k:t for k,t in other.model.state_dict().items()
                                                                   if k.startswith('held')}})

def test_kernel_matrices_are_saved_with_the_model():
    sn, subs = holding()
    want, state = outs(sn, subs), copy.deepcopy(sn.model.state_dict())
    shake(sn, 5)
    shift(sn.model.parameters())
    sn.model.load_state_dict(state)
    new = kernels(seed=4)
    new.model.load_state_dict(state)
    for this in (sn, new): assert all(map(torch.equal, outs(this, subs[::2]), want[::2]))

class Worse(Callback):
    "Validation loss that rises, so that the first epoch is the best"
    order = 55
    def after_epoch(self): self.learn.recorder.values[-1][1] = float(self.epoch)
    def before_fit(self): self.seen = []

def test_the_best_epoch_comes_back_whole(tmp_path):
    learn = private_learner(tmp_path)
    sn, x = learn.supernet, torch.Tensor(learn.dls.valid.one_batch()[0])
    class Keep(Callback):
        order = 70
        def after_epoch(self):
            if self.epoch==0: self.want = [says(sn.extract(s), x) for s in sn.private]
    keep = Keep()
    save = SaveModelCallback(monitor="valid_loss")
    cbs = [OnionTraining(slimmable(3), estimate=False, watch=()), Worse(), save, keep]
    quietly(learn, 'fit', 2, 1e-2, cbs=cbs)
    assert all(torch.equal(says(sn.extract(s), x), y) for s,y in zip(sn.private, keep.want))

def by_file(x):
    f = io.BytesIO()
    torch.save(x, f)
    f.seek(0)
    return torch.load(f, weights_only=False)

@pytest.mark.parametrize('how', [copy.deepcopy, by_file, lambda x: pickle.loads(pickle.dumps(x))],
                         ids=['deepcopy','torch.save','pickle'])
def test_a_copy_made_within_active_is_the_full_network(how):
    sn, (private, *_) = holding()
    want, small = says(sn.model, xb), outs(sn, [private])[0]
    with sn.active(private):
        alone, (together, new) = how(sn.model), how((sn.model, sn))
        assert torch.equal(says(sn.model, xb), small)
    for m in (alone, together, sn.model): assert torch.equal(says(m, xb), want)
    assert new.subnet==new.full and torch.equal(outs(new, [private])[0], small)
    assert together.state_dict().keys()==sn.model.state_dict().keys()

def test_a_learner_exported_within_active_is_the_full_network(learn, tmp_path):
    sn, x = learn.supernet, torch.Tensor(learn.dls.valid.one_batch()[0])
    want = says(learn.model, x)
    with sn.active(sn.space.min): learn.export(tmp_path/'l.pkl')
    assert torch.equal(says(load_learner(tmp_path/'l.pkl').model, x), want)

def test_what_is_taken_out_knows_nothing_of_supernets(learn):
    sn = learn.supernet
    sn.private_bn(sn.space.min)
    net = sn.extract(sn.space.min)
    assert not any(k.startswith('held') for k in net.state_dict()) and b'elastic_nets.subnets' not in pickle.dumps(net)
