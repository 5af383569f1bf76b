"Anything may come in a file or an argument: it is read, or refused with a ValueError or TypeError; nothing is executed"
import json, os, pickle
from dataclasses import replace
import numpy as np, pytest, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save
from torch import nn
from elastic_nets.all import (
    Construct, Delayed, Gradient, OnnxNet, Phase, Phases, Recipe, Space, StagePlan, Subnet, Supernet, Update,
    digits_dls, load_latencies, load_published, load_subnet, ofa_mobilenetv3, read_table, resnet_cifar, subnet_in)
from elastic_nets.use import checkpoint

some = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names, whole = st.text(max_size=6), st.integers(-3, 40)
choices = st.dictionaries(names, st.integers(0, 512), max_size=4)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(names, x, max_size=3) | st.tuples(x, x), max_leaves=6)

def tried(f, *args, **kwargs):
    "What `f` returns, None where it refuses in words"
    try: return f(*args, **kwargs)
    except (ValueError, TypeError) as e:
        assert len(str(e))>10, repr(e)
        assert not any(raw in str(e) for raw in ('object has no attribute','not subscriptable','not supported between',
                                                 'not iterable','truth value')), e

@some
@given(choices, choices, choices, st.none() | st.integers(1, 512))
def test_a_subnet_comes_back_from_json(width, depth, kernel, side):
    s = Subnet(width, depth, kernel, side)
    assert Subnet.from_json(s.to_json())==s and hash(Subnet.from_json(s.to_json()))==hash(s)
    assert pickle.loads(pickle.dumps(s))==s and eval(repr(s))==s

@some
@given(anything, st.integers(0, 200), st.characters())
def test_any_text_is_a_subnet_or_refused(x, at, char):
    texts = [json.dumps(x, default=str), str(x)]
    text = Subnet({'a':3}, {'b':1}).to_json()
    texts += [text[:at], text[:at]+char+text[at+1:], json.dumps({**json.loads(text), 'width': x}, default=str)]
    for t in texts:
        s = tried(Subnet.from_json, t)
        if s is not None: assert Subnet.from_json(s.to_json())==s

@some
@given(anything, anything, anything, anything)
def test_any_values_of_subnets_and_spaces(a, b, c, d):
    tried(Subnet, a, b, c, d)
    tried(Space, a, b, c, d)
    tried(Space, {}, inside=a, given=b)
    tried(Subnet.from_json, a)

@some
@given(st.dictionaries(names, st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(sorted), min_size=1,
                       max_size=4), st.integers(0, 9999))
def test_a_space_holds_what_it_draws(widths, seed):
    space = Space({n: tuple(vs) for n,vs in widths.items()})
    s = space.sample(seed)
    assert s in space and space.min in space and space.max in space and space.sample(seed)==s
    assert replace(space, width=space.width)==space
    name = next(iter(widths))
    assert Subnet({**s.width, name: 65}) not in space and Subnet({**s.width, name+'!': 1}) not in space

@pytest.fixture(scope='module')
def supernet(): return Supernet(resnet_cifar(8, width=4, n_in=1), torch.randn(2,1,8,8), widths=(.5,1.), check=False)

@some
@given(data=st.data())
def test_any_subnet_is_taken_out_or_refused(supernet, data):
    sizes = {n: data.draw(st.sampled_from([*vs, 1, 0, -2])) for n,vs in supernet.space.width.items()}
    s = Subnet(data.draw(st.sampled_from([sizes, {**sizes, 'nope':1}])))
    net = tried(supernet.extract, s)
    assert (net is None)==(s not in supernet.space)

@some
@given(anything, anything)
def test_any_plan(sizes, starts):
    p = tried(StagePlan, sizes, starts)
    if p is not None: assert p.sizes[-1]==1 and p.starts[0]==0

@some
@given(st.lists(st.floats(.01, .99), max_size=4, unique=True).map(sorted), st.lists(
    st.floats(.01, .99), max_size=4, unique=True).map(sorted), st.floats(0, 1))
def test_plans_of_numbers(sizes, starts, pct):
    p = tried(StagePlan, (*sizes, 1.), (0., *starts))
    if len(sizes)==len(starts) and p is not None: assert 0<=p.at(pct)<len(p.sizes)
    if len(sizes)!=len(starts): assert p is None

@some
@given(st.data())
def test_any_recipe(data):
    def draw(x=anything): return data.draw(x)
    dims = draw(st.lists(st.sampled_from(['width','depth','kernel','x']), max_size=3))
    c = tried(Construct, k=draw(whole), dims=tuple(dims), levels=draw(whole), sort=draw(st.sampled_from(
        ['never','once','phases','x'])), bn=draw(st.sampled_from(['shared','private','statistics','x'])))
    g = tried(Gradient, draw(st.sampled_from(['hard','distill','next','teacher','x'])))
    u = tried(Update, draw(st.sampled_from(['joint','small first','large first','x'])))
    number = st.floats(allow_nan=True) | whole
    s = tried(Delayed, draw(number), draw(number))
    p = tried(Phases, tuple(p for p in [tried(Phase, draw(number))] if p))
    r = tried(Recipe, *[v for v in (c, g, u, s or p)])
    if r is not None:
        n = 20
        assert all(0<=r.schedule.at(i, n).eps<=1 for i in range(n)) and repr(r)

# ---- checkpoints

about = dict(model='a', epochs=3)
state = dict(fit=dict(tensors={'w': torch.arange(6.)}), epoch=1, batch=(2, 'x'), now=[1., None, True])

@some
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_checkpoint(data):
    with pytest.raises(ValueError, match='cut short|damaged|no checkpoint'): checkpoint.unseal(data)

@some
@given(st.data())
def test_a_checkpoint_with_other_bytes_is_refused(data):
    good = checkpoint.seal(about, state)
    assert checkpoint.unseal(good)[0]==about
    at, what = data.draw(st.integers(0, len(good)-1)), data.draw(st.binary(max_size=8))
    other = good[:at]+what+good[at+len(what)*data.draw(st.booleans()):]
    if other!=good:
        with pytest.raises(ValueError): checkpoint.unseal(other)

@some
@given(anything)
def test_a_sealed_file_with_anything_inside_is_read_or_refused(x):
    "Whoever makes a file can compute its checksum; what is in it still is data only"
    from hashlib import sha256
    text = json.dumps(x, default=str)
    head = dict(format='elastic_nets 1', about=text, state=text, sha256='0'*64)
    data = bytearray(save({}, head))
    at = data.index(b'"sha256":"'+b'0'*64)+10
    data[at:at+64] = sha256(data).hexdigest().encode()
    try: checkpoint.unseal(bytes(data))
    except ValueError as e: assert 'no checkpoint of this library' in str(e)

# ---- files from outside

class Evil:
    def __reduce__(self): return os.system, ('touch executed',)

def pickled(path): path.write_bytes(pickle.dumps(dict(a=Evil())))
def saved(path): torch.save(dict(a=Evil()), path)
def saved_as_array(path):
    with path.open('wb') as f: np.save(f, np.array([Evil()], dtype=object), allow_pickle=True)
code = '__import__("os").system("touch executed")'
def python(path): path.write_text(code)
def python_in_json(path): path.write_text(json.dumps(dict(version=1, subnet=code)))
def python_in_a_table(path): path.write_text('subnet,macs\n"__import__(""os"").system(""touch executed"")",1\n')

bombs = pickled, saved, saved_as_array, python, python_in_json, python_in_a_table

def learner():
    return Learner(digits_dls(bs=256, device='cpu'), resnet_cifar(8, width=4, n_in=1), metrics=accuracy)

def searched(path):
    learn = learner()
    learn.to_supernet(widths=(.5,1.))
    learn.search_subnet(n=1, storage=path, calibrate=0)

loaders = { # what reads a file
    'a checkpoint': lambda path: checkpoint.unseal(path.read_bytes()),
    'ElasticCheckpoint': lambda path: checkpoint.newest(path.parent, {}),
    'learn.load': lambda path: learner().load(path),
    'Subnet.from_json': lambda path: Subnet.from_json(path.read_text(encoding='latin1')),
    'load_subnet': lambda path: load_subnet(path, nn.Linear(2,2)), 'subnet_in': subnet_in,
    'read_table': read_table, 'OnnxNet': OnnxNet, 'search_subnet': searched,
    'load_latencies': lambda path: load_latencies(Supernet(resnet_cifar(8, width=4, n_in=1), torch.ones(2,1,8,8),
                                                           check=False), path),
    'load_published': lambda path: load_published(path, ofa_mobilenetv3(10, img=32, width=.25))}

def test_the_bombs_explode(tmp_path, monkeypatch):
    "Where somebody unpickles them"
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path/'a')
    pickle.loads((tmp_path/'a').read_bytes())
    assert os.path.exists('executed')

@pytest.mark.parametrize('loader', loaders)
def test_nothing_is_executed(tmp_path, monkeypatch, loader):
    monkeypatch.chdir(tmp_path)
    for bomb in bombs:
        path = tmp_path/'a.safetensors'
        bomb(path)
        with pytest.raises(Exception): loaders[loader](path) # noqa: B017, some are another library's
        assert not os.path.exists('executed'), bomb.__name__
