"A subnet in a file: every kind of choice, with this library and without it; damaged and foreign files; training on"
import json, pickle, re, subprocess, sys
from contextlib import redirect_stdout
from io import StringIO
import pytest, timm, torch
from fastai.callback.core import Callback
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, mse
from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, TabularLearner, tabular_learner
from pandas import DataFrame
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models as tv
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.save import finetune, load_subnet, read_cut, save_subnet, seal_file, subnet_in
from elastic_nets.zoo.models import resnet_cifar, vit
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from helpers import close, fails, new_learner, randomise, same
from notebooks import Notebook, root

class Scaled(nn.Module):
    "A residual block of two arguments, the second of which is its input"
    def __init__(self, n):
        super().__init__()
        self.conv = nn.Conv2d(n, n, 3, padding=1)
    def forward(self, scale, x): return x + scale*self.conv(x)

class TwoInputs(nn.Module):
    "Blocks of several arguments; the last layer reads the first one's weight"
    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3,8,1), nn.ModuleList([Scaled(8), Scaled(8)]), nn.Conv2d(8,8,1)
        self.again = nn.Conv2d(8,8,1)
        self.again.weight = self.head.weight
    def forward(self, x):
        x = self.stem(x)
        for b in self.blocks: x = b(.5, x)
        return self.again(self.head(x)).mean((2,3))

def of_vit(): return tv.VisionTransformer(image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=32,
                                          mlp_dim=64, num_classes=10)
def tiny_timm(): return timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2, num_classes=5)
def published(): return ofa_mobilenetv3(10, img=32, width=.5)[0]

nets = { # how the whole is made, options of the supernet
    'resnet': (lambda: resnet_cifar(8), dict(depths=(0,1), kernels=(1,3))),
    'matrices': (published, dict(space=ofa_mobilenetv3(10, img=32, width=.5)[1], check=False)),
    'vit': (lambda: vit(img=32, patch=8, dim=48, depth=3, heads=3), dict(depths=(0,1))),
    'torchvision vit': (of_vit, dict(depths=(0,.5,1))),
    'densenet': (lambda: tv.DenseNet(8, (2,2), 16, num_classes=5), {}),
    'timm vit': (tiny_timm, dict(depths=(0,1))),
    'segmentation': (lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None,
                     num_classes=3), dict(depths=(0,1), check=False)),
    'arguments': (TwoInputs, dict(depths=(0,1)))}

@pytest.fixture
def no_pickle(monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError('unpickled')
    for name in ('load','loads','Unpickler'): monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, 'load', refuse)

def outs(y): return torch.cat([t.flatten() for t in (y.values() if isinstance(y, dict) else [y])])

@pytest.mark.parametrize('name', nets)
def test_the_file_holds_what_is_taken_out(name, tmp_path, no_pickle):
    "Smallest, largest, random ones, recalibrated, with kernel matrices: the same bits, from the network's code"
    make, options = nets[name]
    x = torch.randn(4,3,32,32)
    sn = Supernet(randomise(make()).eval(), x, **options)
    if sn.space.kernel: sn.kernel_matrices()
    for p in sn.held_params(): p.data += .1*torch.randn_like(p)
    for s in (sn.space.min, sn.space.max, sn.space.sample(0), sn.space.sample(1)):
        if name!='arguments': sn.calibrate(s, [(x,)], 4)
        f = save_subnet(sn, s, tmp_path/'f')
        whole, want = make(), sn.extract(s).eval()
        before = [p.clone() for p in whole.parameters()]
        got = load_subnet(f, whole)
        assert same(got.state_dict(), want.state_dict()) and not got.training and subnet_in(f)==s
        close(*[outs(m.double()(x.double())) for m in (got, want)])
        assert all(map(torch.equal, whole.parameters(), before)), 'the network that was given stays whole'
        assert [n for n,_ in got.named_parameters()]==[n for n,_ in want.named_parameters()]
        for a,b in zip(got.modules(), want.modules()): assert repr(a)==repr(b)

def test_half_numbers_and_files_that_are_there(tmp_path):
    sn = Supernet(randomise(resnet_cifar(8)).half().float().eval(), torch.randn(2,3,32,32))
    m = sn.extract(sn.space.min).half()
    f = save_subnet(sn, sn.space.min, tmp_path/'f', model=m)
    assert {p.dtype for p in load_subnet(f, resnet_cifar(8)).parameters()}=={torch.float16}
    fails('in this subnet', lambda: save_subnet(sn, sn.space.max, tmp_path/'f', model=m))
    assert subnet_in(f)==sn.space.min and [p.name for p in tmp_path.iterdir()]==['f'], 'the old file is as it was'

# ---- without this library

def lines():
    "The lines that the notebook shows"
    nb = Notebook(root/'nbs/use/43_save.ipynb')
    text = ['\n'.join(''.join(c['source']).splitlines()) for c in nb.cells if c['cell_type']=='markdown']
    found, = [m[1] for t in text for m in [re.search(r'```python\n(.*?)```', t, re.S)] if m]
    return found

OUTSIDE = '''
import sys, pickle
sys.modules['elastic_nets'] = None
def refuse(*args, **kwargs): raise AssertionError('unpickled')
try: import elastic_nets
except ImportError: pass
else: raise SystemExit('elastic_nets is there')
import torch, torchvision, timm
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
for i, lines in enumerate(LINES):
    exec(lines)
    x, y = [load_file(f'{i}.xy')[k] for k in 'ab']
    torch.testing.assert_close(model.double()(x.double()), y, rtol=1e-10, atol=1e-10)
print('the same')
'''

def test_the_file_opens_where_this_library_is_not(tmp_path):
    "The lines of the notebook, for torchvision and timm, in a process that cannot import us"
    here, cases = [], {
        'torchvision:mobilenet_v3_small': (tv.mobilenet_v3_small, dict(num_classes=10), dict(kernels=(3,5))),
        'timm:vit_tiny_patch16_224': (lambda **kw: timm.create_model('vit_tiny_patch16_224', **kw),
            dict(img_size=32, depth=3, num_classes=5), {})}
    for i,(arch,(make,args,options)) in enumerate(cases.items()):
        x = torch.randn(2,3,32,32)
        sn = Supernet(randomise(make(**args)).eval(), x, depths=(0,1), check=False, **options)
        s = sn.space.sample(1)
        sn.calibrate(s, [(x,)], 2)
        save_subnet(sn, s, tmp_path/f'{i}.safetensors', arch, args)
        y = sn.extract(s).eval().double()(x.double()).detach()
        assert s.depth
        close(load_subnet(tmp_path/f'{i}.safetensors').double()(x.double()), y)
        save_file({'a':x, 'b':y}, tmp_path/f'{i}.xy')
        lib = lines().replace('small.safetensors', f'{i}.safetensors')
        here.append(lib if i==0 else lib.replace('from torchvision.models import get_model',
                                                 'from timm import create_model as get_model'))
    script = f'from safetensors.torch import load_file\nLINES = {here!r}\n{OUTSIDE}'
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode==0 and 'the same' in r.stdout, r.stderr[-2000:]

# ---- files that are wrong

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    sn = Supernet(randomise(resnet_cifar(8)).eval(), torch.randn(2,3,32,32), depths=(0,1))
    return save_subnet(sn, sn.space.min, tmp_path_factory.mktemp('f')/'good')

def test_cut_short_anywhere(good, tmp_path):
    data = good.read_bytes()
    for n in (0, 4, 100, 5000, len(data)-1):
        (tmp_path/'f').write_bytes(data[:n])
        fails('cut short, or no safetensors', lambda: load_subnet(tmp_path/'f', resnet_cifar(8)))

def test_no_bit_flips_unnoticed(good, tmp_path):
    "In the head, the JSON, the checksum, the weights: never another network"
    data = good.read_bytes()
    end = 8+int.from_bytes(data[:8], 'little')
    for at in (*range(0, end, 37), *range(end, len(data), len(data)//60), len(data)-1):
        flipped = bytearray(data)
        flipped[at] ^= 1<<at%8
        (tmp_path/'f').write_bytes(flipped)
        with pytest.raises(ValueError, match='path: '): load_subnet(tmp_path/'f', resnet_cifar(8))

def test_a_file_without_a_checksum_is_refused(good, tmp_path):
    about, tensors = read_cut(good)
    save_file(tensors, tmp_path/'f', {'elastic_nets': json.dumps(about)})
    fails('its checksum is wrong', lambda: load_subnet(tmp_path/'f', resnet_cifar(8)))

def with_json(good, path, **changes):
    "The file with other JSON; a change to None leaves an entry out"
    about, tensors = read_cut(good)
    about = {k:v for k,v in {**about, **changes}.items() if v is not ...}
    path.write_bytes(seal_file(tensors, about))
    return path

def test_files_of_others(good, tmp_path):
    f = tmp_path/'f'
    fails('No such file|not found', lambda: load_subnet(f), FileNotFoundError)
    save_file(load_file(good), f, {'format':'pt'})
    fails("not the JSON of `save_subnet`.*they have .'format'", lambda: load_subnet(f))
    torch.save(dict(a=1), f)
    fails('no safetensors file', lambda: load_subnet(f))
    f.write_text('{"a": 1}')
    fails('no safetensors file', lambda: load_subnet(f))
    fails('a subnet of version 1', lambda: load_subnet(with_json(good, f, version=2)))
    fails('a subnet of version 1', lambda: load_subnet(with_json(good, f, attrs=...)))
    fails("'torchvision:<name>'", lambda: load_subnet(with_json(good, f, arch='os:system')))
    fails('would load other weights', lambda: load_subnet(
        with_json(good, f, arch='torchvision:resnet18', args=dict(weights='DEFAULT'))))

def test_what_is_missing_is_named(good, tmp_path):
    f, net = tmp_path/'f', resnet_cifar(8)
    about, tensors = read_cut(good)
    f.write_bytes(seal_file({n:t for n,t in tensors.items() if n!='head.fc.bias'}, about))
    fails('head.fc.bias of Sequential are missing in the file', lambda: load_subnet(f, net))
    fails("model: .* of the file is missing in ResNet", lambda: load_subnet(good, tv.resnet18()))
    fails('is no part of that', lambda: load_subnet(good, resnet_cifar(8, width=4, n_classes=2)))
    fails('give the whole Sequential', lambda: load_subnet(good))
    fails('it is elastic', lambda: load_subnet(good, Supernet(resnet_cifar(8), torch.randn(2,3,32,32)).model))

# ---- training on, and other ways out

class Flip(Callback):
    "Makes the batch"
    def before_batch(self): self.learn.xb = (-self.x,)

def digits_like(n=96):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 8, 8, generator=gen)
    return x, (x.mean((1,2,3))>0).long()

def test_finetune_trains_a_network_of_its_own():
    "Same class, data, loss, metrics and callbacks that make data; the family stays as it is"
    learn = new_learner(lambda: resnet_cifar(8, n_classes=2), digits_like(), dtype=torch.float32,
                        loss=CrossEntropyLossFlat(), metrics=accuracy, cbs=Flip())
    sn = learn.to_supernet(depths=(0,1))
    before, s = {n:t.clone() for n,t in learn.model.state_dict().items()}, sn.space.min
    with redirect_stdout(StringIO()):
        torch.manual_seed(0)
        small = finetune(learn, s, epochs=1, lr=1e-2)
    assert all(torch.equal(t, before[n]) for n,t in learn.model.state_dict().items())
    start = learn.subnet(s)
    assert type(small) is Learner and small.loss_func is learn.loss_func and small.dls is learn.dls
    assert [type(cb) for cb in small.cbs if isinstance(cb, Flip)]==[Flip] and 'accuracy' in small.recorder.metric_names
    assert not torch.equal(start.model.head.fc.weight, small.model.head.fc.weight)
    with redirect_stdout(StringIO()): low = finetune(learn, s, epochs=1)
    assert max(low.recorder.lrs)==pytest.approx(learn.lr/10, rel=.05)

def table_learner(regression=False):
    "Rows of a color and a size"
    gen = torch.Generator().manual_seed(0)
    size = torch.randn(64, generator=gen).tolist()
    target = [x if regression else ('b' if x>0 else 's') for x in size]
    df = DataFrame(dict(color=['red','blue']*32, size=size, y=target))
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['color'], cont_names=['size'],
                                     y_names='y', valid_idx=list(range(48,64)), bs=16)
    return df, tabular_learner(dls, layers=[32,16], metrics=mse if regression else accuracy)

@pytest.mark.parametrize('regression', [False, True])
def test_rows_are_predicted(regression, tmp_path):
    "A tabular learner's subnet stays one: it predicts a row, also trained on, exported and loaded"
    df, learn = table_learner(regression)
    sn = learn.to_supernet()
    with redirect_stdout(StringIO()): small = finetune(learn, sn.space.min, epochs=1)
    assert type(small) is TabularLearner
    small.export(tmp_path/'small.pkl')
    back = load_learner(tmp_path/'small.pkl')
    rows = [l.predict(df.iloc[0].drop('y'))[-1] for l in (small, back)]
    assert torch.equal(*rows) and (tmp_path/'small.pkl').stat().st_size < 200_000
    f = save_subnet(learn, sn.space.min, tmp_path/'f', model=small.model)
    _, whole = table_learner(regression)
    loaded = load_subnet(f, whole.model)
    small.model = loaded
    torch.testing.assert_close(small.predict(df.iloc[0].drop('y'))[-1], rows[0])

class Tempered(Learner):
    "A learner of the user's, with something of its own"
    def __init__(self, *args, temperature=1., **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = temperature
    def sure(self, x): return (self.model(x)/self.temperature).softmax(1)

def test_a_learner_of_the_users_stays_one():
    "What its class has beyond a Learner comes along, what a fit leaves behind does not"
    plain = new_learner(lambda: resnet_cifar(8, n_classes=2), digits_like(), dtype=torch.float32,
                        loss=CrossEntropyLossFlat())
    learn = Tempered(plain.dls, plain.model, loss_func=plain.loss_func, temperature=3.)
    learn.to_supernet()
    with redirect_stdout(StringIO()), learn.no_bar():
        learn.fit(1, 1e-3)
        small = finetune(learn, learn.supernet.space.min, epochs=1)
    assert type(small) is Tempered and small.temperature==3. and 'supernet' not in vars(small)
    x = digits_like()[0][:2]
    close(small.sure(x), (small.model(x)/3).softmax(1))

@pytest.mark.parametrize('name', [n for n in nets if n!='arguments'])
def test_torch_export(name):
    "`torch.export` takes an extracted subnet, with a batch of any size"
    make, options = nets[name]
    x = torch.randn(3,3,32,32)
    sn = Supernet(randomise(make()).eval(), x, **options)
    m = sn.extract(sn.space.sample(0)).eval()
    program = torch.export.export(m, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for n in (2, 5):
        y = torch.randn(n,3,32,32)
        torch.testing.assert_close(outs(program.module()(y)), outs(m(y)), rtol=1e-4, atol=1e-4)
