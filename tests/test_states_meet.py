"States that meet: a subnet is active while its model is saved, made plain, made elastic again or changed"
import copy, pickle
import pytest, timm, torch
from torch import nn
from elastic_nets.all import Supernet, load_subnet, save_subnet
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.deepen import start_shallow
from elastic_nets.grow.stages import macs_of_layers
from elastic_nets.grow.widen import start_narrow
from elastic_nets.subnets.cost import macs

xb = torch.randn(2,3,16,16)
small = dict(img_size=16, patch_size=8, embed_dim=16, num_classes=5)
def heads(): # which its layers remember
    return timm.create_model('vit_tiny_patch16_224', depth=2, num_heads=4, **small)
def plain():
    return nn.Sequential(nn.Conv2d(3,8,3,padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Conv2d(8,16,3,padding=1),
                         nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16,5))

def active_small(model):
    sn = Supernet(model.eval(), xb, widths=(.5,1.))
    sn.set_active(sn.space.min)
    return sn

def test_an_active_subnet_is_saved_as_any_other(tmp_path):
    sn = active_small(heads())
    small = sn.space.min
    save_subnet(sn, small, tmp_path/'small')
    loaded = load_subnet(tmp_path/'small', model=heads()).eval()
    assert (loaded(xb)-sn.extract(small).eval()(xb)).abs().max()<1e-5

@pytest.mark.parametrize('then', ['plain', 'again', 'another head'])
def test_heads_are_whole_again(then):
    "The full network answers as before, whatever was active"
    model = heads().eval()
    want = model(xb)
    sn = active_small(model)
    if then=='plain': assert torch.equal(sn.plain()(xb), want)
    if then=='again':
        new = Supernet(model, xb, widths=(.25,1.))
        assert torch.equal(model(xb), want) and new.subnet==new.full
    if then=='another head':
        name, last = [(n, m) for n,m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        home, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(home), leaf, nn.Linear(last.in_features, 7))
        assert sn.macs(sn.full)>sn.macs(sn.space.min)
        assert model(xb).shape==(2,7) # the small one still

def test_a_model_whose_part_became_elastic_can_be_loaded():
    whole = nn.Sequential(plain(), nn.ReLU())
    ended, part = Supernet(whole, xb), Supernet(whole[0], xb)
    assert ended.retired and not part.retired
    whole.load_state_dict(whole.state_dict())

def test_a_supernet_that_has_ended_is_copied():
    sn = Supernet(plain(), xb)
    sn.plain()
    for c in (copy.deepcopy(sn), pickle.loads(pickle.dumps(sn))): assert c.retired

def test_a_layer_that_was_refused_and_put_back_is_elastic():
    model = heads().eval()
    sn = Supernet(model, xb, widths=(.5,1.))
    linear = [n for n,m in model.named_modules() if isinstance(m, nn.Linear)]
    name = next(n for n in linear if n.endswith(('.0','fc1')))
    home, _, leaf = name.rpartition('.')
    home = model.get_submodule(home)
    old = getattr(home, leaf)
    setattr(home, leaf, nn.Linear(old.in_features, old.out_features-2))
    with pytest.raises(ValueError): sn.macs(sn.full)
    setattr(home, leaf, old)
    sn.set_active(sn.space.min)
    assert (model(xb)-sn.extract(sn.space.min).eval()(xb)).abs().max()<1e-5

def test_norms_that_are_gone_are_not_inherited():
    model = plain()
    sn = Supernet(model, xb, widths=(.5,1.))
    sn.private_bn(sn.space.min)
    model[1] = nn.Identity()
    sn = Supernet(model, xb, widths=(.5,1.))
    sn.set_active(sn.space.min)
    assert model(xb).shape==(2,5)

@pytest.mark.parametrize('i, new', [(2, nn.Identity()), (3, nn.Conv2d(8,16,3,stride=2,padding=1))])
def test_macs_follow_layers_with_the_same_tensors(i, new):
    sn = Supernet(plain(), xb, widths=(.5,1.))
    sn.model[i] = new
    assert sn.macs(sn.full)==macs(sn.extract(sn.full), xb)

def test_a_layer_replaced_within_active_does_not_make_it_last():
    sn = Supernet(plain(), xb, widths=(.5,1.))
    with sn.active(sn.space.min): sn.model[7] = nn.Linear(16,5)
    assert sn.subnet==sn.lasting==sn.full==copy.deepcopy(sn).subnet

def test_a_copy_of_the_model_loads_what_it_can():
    sn = Supernet(plain(), xb)
    sn.private_bn(sn.space.min)
    alone = copy.deepcopy(sn.model)
    with pytest.warns(UserWarning, match='a copy of a model has no supernet'):
        alone.load_state_dict(sn.model.state_dict())
    assert all(torch.equal(a, b) for a,b in zip(alone.parameters(), sn.model.parameters()))

def test_macs_of_sizes_with_attention():
    mixer = timm.models.MlpMixer(num_blocks=2, **small)
    for model, start in ((heads(), start_narrow), (heads(), start_shallow), (mixer, start_narrow)):
        model.eval()
        graph = trace_channels(model, xb)
        start(model, graph, .5)
        assert macs_of_layers(model, graph)==macs(model, xb)
