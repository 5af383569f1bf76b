"The reference networks and the data sets, as a fastai user meets them"
import copy, pickle, random
import numpy as np, pytest, torch
from fastai.distributed import DistributedDL
from fastai.vision.all import (
    Callback, CancelFitException, ClassificationInterpretation, DiceMulti, Learner, MixUp, ProgressCallback, SGD,
    accuracy, default_split, load_learner, resnet18, to_detach, vision_learner)
from PIL import Image
from torch import nn
from torchvision import models as tvm
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.widen import grow_width, init_random, start_narrow
from elastic_nets.zoo import data, models
from elastic_nets.zoo.data import MeanIoU, cifar_dls, cityscapes_dls, digits_dls, imagefolder_dls, shapes_dls
from elastic_nets.zoo.models import deeplabv3plus, mobilenet_cifar, resnet_cifar, vgg_cifar, vit

nets = {
    'resnet': lambda **kw: resnet_cifar(14, width=8, **kw),
    'vgg': lambda **kw: vgg_cifar(11, width=8, **kw),
    'mobilenet1': lambda **kw: mobilenet_cifar(1, width=.25, **kw),
    'mobilenet2': lambda **kw: mobilenet_cifar(2, width=.25, **kw),
    'vit': lambda **kw: vit(dim=48, depth=2, drop_path=.1, **kw)}

def quiet(*args, **kwargs):
    learn = Learner(*args, **kwargs)
    return learn.remove_cb(ProgressCallback)

class StopAfter(Callback):
    "End the fit after `n` training batches"
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.training and self.iter+1 >= self.n: raise CancelFitException

def write(f, rng, w=32, h=32):
    f.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (h,w,3), dtype=np.uint8)).save(f)

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "train of two classes, square, and val, wider"
    root,rng = tmp_path_factory.mktemp('folders'),np.random.default_rng(0)
    for split,n in ('train',8), ('val',4):
        for c in 'ab':
            for i in range(n): write(root/split/c/f'{split}{c}{i}.png', rng, w=36 if split=='train' else 48, h=36)
    return root

@pytest.mark.parametrize('name', nets)
def test_every_parameter_learns(name):
    "One step moves every parameter; copies and pickles compute the same; fastai's default splitter finds two groups"
    torch.manual_seed(0)
    model,dls = nets[name](n_in=1),digits_dls(size=32, bs=32, device='cpu')
    before = copy.deepcopy(model)
    learn = quiet(dls, model, opt_func=SGD, lr=.1)
    with learn.no_logging(): learn.fit(1, cbs=[StopAfter(2)], wd=0)
    still = [n for (n,p),q in zip(model.named_parameters(), before.parameters()) if torch.equal(p, q)]
    assert still == [] and all(p.isfinite().all() for p in model.parameters())
    x = dls.valid.one_batch()[0]
    model.eval()
    for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)): assert torch.equal(other(x), model(x))
    groups = default_split(model)
    assert all(len(g) for g in groups) and sum(len(g) for g in groups) == len(list(model.parameters()))

@pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
def test_deeplab_grows(backbone):
    "Every channel but the classes is elastic; cut to a half it runs, and it grows back and keeps its weights"
    torch.manual_seed(0)
    model,xb = deeplabv3plus(backbone, n_classes=4, width=32),torch.randn(2,3,64,64)
    shapes = {n:p.shape for n,p in model.state_dict().items()}
    graph = trace_channels(model, xb)
    assert graph.shares['params'] > .999 and [n for n,g in graph.groups.items() if g.why] == ['head']
    keep = start_narrow(model, graph, .5)
    assert model(xb).shape == (2,4,64,64)
    assert model.backbone.conv1.out_channels == 32 and model.decoder.reduce.conv.out_channels == 24
    w = model.aspp.convs[1][0].weight.detach().clone()
    for width in (.75, 1.): keep = grow_width(model, graph, keep, width, init=init_random)
    assert {n:p.shape for n,p in model.state_dict().items()} == shapes
    assert torch.equal(model.aspp.convs[1][0].weight[:len(w),:w.shape[1]], w) and model(xb).shape == (2,4,64,64)

def test_deeplab_backbone_alone():
    "With the backbone cut, ASPP and decoder read less and keep their own widths; then it grows back"
    model,xb = deeplabv3plus('resnet18', n_classes=4, width=32),torch.randn(2,3,64,64)
    graph = trace_channels(model, xb)
    shapes = {n:p.shape for n,p in model.state_dict().items()}
    keep = start_narrow(model, graph, .5, submodule='backbone')
    assert model(xb).shape == (2,4,64,64)
    convs = model.backbone.conv1, model.aspp.convs[1][0], model.decoder.reduce.conv, model.head
    assert [(c.in_channels,c.out_channels) for c in convs] == [(3,32), (256,32), (32,48), (32,4)]
    grow_width(model, graph, keep, 1., init=init_random)
    assert {n:p.shape for n,p in model.state_dict().items()} == shapes and model(xb).shape == (2,4,64,64)

def test_deeplab_learns():
    "One step on shapes moves every parameter"
    torch.manual_seed(0)
    model,dls = deeplabv3plus('resnet18', n_classes=4, width=16),shapes_dls(n=20, size=32, bs=4, device='cpu')
    before = copy.deepcopy(model)
    learn = quiet(dls, model, opt_func=SGD, lr=.1)
    with learn.no_logging(): learn.fit(1, cbs=[StopAfter(1)], wd=0)
    assert [n for (n,p),q in zip(model.named_parameters(), before.parameters()) if torch.equal(p, q)] == []

def test_deeplab_output_stride():
    "The last stage, at twice its resolution, computes at every second pixel what the ResNet's own did"
    torch.manual_seed(0)
    net = tvm.resnet18()
    own = copy.deepcopy(net).eval()
    body,x = deeplabv3plus(net, width=16).backbone.eval(),torch.randn(1,3,64,96)
    with torch.no_grad():
        got,want = body(x),own.layer4(body[:-1](x))
    assert got.shape == (1,512,4,6) and torch.allclose(got[...,::2,::2], want, atol=1e-5)

def test_deeplab_backbones(monkeypatch):
    "`weights` go to torchvision; a ready ResNet gives its own layers, one that is dilated already stays as it is"
    seen = []
    def get(name, weights=None):
        seen.append((name,weights))
        return tvm.get_model(name)
    monkeypatch.setattr(models, 'get_model', get)
    deeplabv3plus('resnet18', weights='IMAGENET1K_V1')
    assert seen == [('resnet18','IMAGENET1K_V1')]
    net = tvm.resnet50(replace_stride_with_dilation=[False,True,True])
    body = deeplabv3plus(net, width=16).backbone.eval()
    x = torch.randn(1,3,64,64)
    with torch.no_grad(): assert body(x).shape == (1,2048,8,8)
    assert body.layer4 is net.layer4 and body.layer4[1].conv2.dilation == (4,4)

def test_vit_attention_width_is_its_own():
    "The residual stream of a ViT can be cut without touching the heads"
    m = vit(dim=48, depth=1, heads=3)
    b = m.blocks[0]
    b.norm1 = b.norm2 = nn.LayerNorm(20)
    for l in (b.attn.q, b.attn.k, b.attn.v): l.weight = nn.Parameter(l.weight[:,:20].detach())
    proj = b.attn.proj
    proj.weight,proj.bias = nn.Parameter(proj.weight[:20].detach()),nn.Parameter(proj.bias[:20].detach())
    b.mlp = nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 20))
    assert b(torch.randn(2,5,20)).shape == (2,5,20)

def test_a_batch_is_one_index():
    "No Python per picture: the data set is asked once for each batch"
    dls = digits_dls(device='cpu')
    calls,get = [],data.MemoryData.__getitem__
    class Counted(data.MemoryData):
        def __getitem__(self, i): calls.append(i); return get(self, i)
    dls.train.dataset.__class__ = Counted
    assert len(list(dls.train)) == len(calls) == 1078//64

def test_training_order():
    "Every epoch shows each training picture at most once, in another order; whole batches only"
    dls = digits_dls(bs=100, device='cpu')
    dls.train.dataset.y = type(dls.train.dataset.y)(torch.arange(1078))
    a,b = [torch.cat([y for _,y in dls.train]) for _ in range(2)]
    assert len(a) == len(set(a.tolist())) == 1000 and not torch.equal(a, b)
    assert [len(y) for _,y in dls.valid] == [100,100,100,59]

def test_predictions_come_in_order():
    "get_preds keeps the order of the test pictures, also from a shuffled loader, and sees what a loop by hand sees"
    dls = digits_dls(device='cpu')
    learn = quiet(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    preds,targs = learn.get_preds(dl=dls.test)
    shuffled,_ = learn.get_preds(dl=dls.test.new(shuffle=True))
    by_index,_ = learn.get_preds(ds_idx=2)
    x = dls.test_ds.x.float()/255
    norm = dls.after_batch.fs[-1]
    with torch.no_grad(): byhand = learn.model(torch.Tensor((x-norm.mean)/norm.std)).softmax(1)
    for p in preds, by_index: assert torch.allclose(p, byhand, atol=1e-5)
    assert torch.allclose(shuffled.sort(0)[0], byhand.sort(0)[0], atol=1e-5)
    assert torch.equal(targs, dls.test_ds.y)

@pytest.mark.filterwarnings('ignore')
def test_what_a_fastai_user_does_with_digits():
    "MixUp, mixed precision, results, confusion matrix and export on digits in three channels"
    dls = digits_dls(n_in=3, size=32, device='cpu')
    learn = vision_learner(dls, resnet18, pretrained=False, metrics=accuracy).remove_cb(ProgressCallback).to_fp16()
    assert len([t for t in dls.after_batch.fs if type(t).__name__=='Normalize']) == 1
    with learn.no_logging(): learn.fit(1, cbs=[MixUp(), StopAfter(2)])
    learn = learn.to_fp32()
    learn.show_results(max_n=2)
    interp = ClassificationInterpretation.from_learner(learn, dl=dls.test)
    assert interp.confusion_matrix().sum() == 360
    interp.plot_top_losses(2)

def test_masks_train_and_count():
    "Masks train with the data set's loss and count in metrics"
    dls = shapes_dls(n=40, size=16, bs=8, device='cpu')
    learn = quiet(dls, nn.Conv2d(3, 4, 3, padding=1), metrics=DiceMulti())
    with learn.no_logging(): learn.fit(1)
    loss,dice = learn.validate(dl=dls.test)
    x,y = next(iter(dls.test))
    with torch.no_grad(): assert learn.loss_func(learn.model(x), y).isfinite() and loss > 0 and 0 <= dice <= 1
    learn.show_results(max_n=2)

@pytest.mark.filterwarnings('ignore')
def test_export_folders(folders, tmp_path):
    "A learner on folders goes to a file and back, and predicts from a path"
    dls = imagefolder_dls(folders, size=24, bs=4, num_workers=0, device='cpu')
    learn = quiet(dls, nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2)), path=tmp_path)
    learn.export()
    f = dls.test.items[0]
    p = load_learner(tmp_path/'export.pkl').predict(f)[2]
    assert torch.allclose(p, learn.get_preds(dl=dls.test)[0][0], atol=1e-5)

def test_folder_pictures(folders):
    "Training sees parts of pictures, enlarged; validation the undistorted middle, normalised"
    dls = imagefolder_dls(folders, size=36, bs=4, num_workers=0, device='cpu')
    got = dls.decode((dls.valid.one_batch()[0],))[0][0]
    with Image.open(dls.valid.items[0]) as im: want = np.asarray(im)[:,6:42]
    assert np.abs(got.permute(1,2,0).numpy() - want).max() <= 1
    train = torch.cat([x for x,_ in dls.train.new(shuffle=False)])
    got = dls.decode((train,))[0].permute(0,2,3,1).numpy()
    def whole(g, f):
        with Image.open(f) as im: return any(np.abs(g-w).max() <= 1 for w in (np.asarray(im), np.asarray(im)[:,::-1]))
    assert sum(map(whole, got, dls.train.items)) < 8
    workers = imagefolder_dls(folders, size=36, bs=4, num_workers=1, device='cpu').valid.one_batch()[0]
    assert torch.equal(workers, dls.valid.one_batch()[0])

def test_halves_of_val(folders):
    "The seed alone decides which half of `val` is for testing"
    a,b,c = [set(imagefolder_dls(folders, bs=4, num_workers=0, seed=s).test.items) for s in (1,1,2)]
    assert a == b and a != c

def test_two_processes_share_an_epoch():
    "Of a memory loader"
    class OneProcess(DistributedDL):
        def _broadcast(self, t, rank): return t
        def _to_detach(self, b, cpu=True, gather=True): return to_detach(b, cpu, gather)
    seen = []
    for rank in range(2):
        dl = digits_dls(device='cpu').valid
        dl.dataset.y = type(dl.dataset.y)(torch.arange(359))
        seen += torch.cat([y for _,y in OneProcess(dl, rank=rank, world_size=2)]).tolist()
    assert sorted(seen) == sorted([*range(359), seen[-1]])

@pytest.fixture(scope='module')
def cifar100(tmp_path_factory):
    "A small CIFAR-100 in fastai's layout, where the class folders stand in folders of superclasses"
    root,rng = tmp_path_factory.mktemp('cifar100'),np.random.default_rng(0)
    for c in range(100):
        for split,n in ('train',3), ('test',1):
            for i in range(n): write(root/split/f's{c//5}'/f'c{c:02}'/f'{i}.png', rng)
    return root

def test_cifar100_has_classes_inside_of_superclasses(cifar100):
    dls = cifar_dls(100, bs=32, path=cifar100, valid_pct=1/3, device='cpu')
    assert dls.c == 100 and [len(d.dataset) for d in dls] == [200,100,100]
    assert dls.valid_ds.y.bincount().tolist() == [1]*100 and dls.train.one_batch()[0].shape == (32,3,32,32)
    assert not dls.valid_ds.split_idx == 0 and torch.equal(dls.valid.one_batch()[0], dls.valid.one_batch()[0])
    dls.train.dataset.x[:] = torch.arange(32).byte()
    first = {x[0,0,0].item() for x in dls.train.one_batch()[0]}
    assert len(first) > 1 # shifted: the first pixel differs from picture to picture

def test_cifar_cannot_be_written(cifar100, monkeypatch):
    "A read-only folder costs time, not the run, and leaves no file behind"
    def full(*args, **kwargs): raise OSError(30, 'Read-only file system')
    (cifar100/'elastic_nets.npz').unlink(missing_ok=True)
    monkeypatch.setattr(data.np, 'savez', full)
    with pytest.warns(UserWarning, match='decoded at every start'):
        dls = cifar_dls(100, bs=32, path=cifar100, device='cpu')
    assert len(dls.test_ds) == 100 and [f.name for f in cifar100.iterdir() if f.is_file()] == []

def test_the_seed_alone_decides_and_global_generators_are_left_alone():
    "Loaders of the same seed shuffle alike, whatever was drawn before; the user's generators are left alone"
    firsts = []
    for s in (1,2):
        random.seed(s); torch.manual_seed(s)
        state = random.getstate(),torch.get_rng_state()
        dl = shapes_dls(n=50, size=16, bs=8, device='cpu').train
        assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
        firsts.append(dl.one_batch()[0])
    assert torch.equal(*firsts)

@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    "A small Cityscapes: pictures of 64x128 pixels in blocks, grey by 7 times their label id"
    root,rng = tmp_path_factory.mktemp('streets'),np.random.default_rng(0)
    for split,city,n in ('train','arden',6), ('train','bree',3), ('val','corinth',2):
        for i in range(n):
            ids = rng.integers(0, 34, (8,16), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            pictures = ('leftImg8bit', 'leftImg8bit', np.stack([ids*7]*3, -1)), ('gtFine', 'gtFine_labelIds', ids)
            for folder,kind,x in pictures:
                f = root/folder/split/city/f'{city}_{i:06}_000019_{kind}.png'
                f.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x).save(f)
    return root

def streets_dls(root, size=48, bs=3, valid='bree'):
    return cityscapes_dls(root, size=size, bs=bs, valid=valid, num_workers=0, device='cpu')

def test_cityscapes_in_step(streets):
    "Train ids are the classes' own, whatever was cropped and flipped; colours change in training only"
    dls = streets_dls(streets)
    train_id = {c.id: c.train_id for c in data.Cityscapes.classes}
    for f,x,y in zip(dls.valid.items, *map(torch.cat, zip(*dls.valid))):
        with Image.open(f) as im: ids = np.asarray(im)[...,0]//7
        assert y.tolist() == [[train_id[i] for i in row] for row in ids.tolist()]
    x,y = [torch.Tensor(o) for o in map(torch.cat, zip(*dls.train))]
    assert x.shape == (6,3,48,48) and (y==255).any()
    for a,b in zip(x, y):
        for c in b[b<255].unique(): assert (a[:,b==c].amax(1) - a[:,b==c].amin(1)).max() < 1e-4
    sky = torch.stack([a[:,b==10].mean() for a,b in zip(x, y) if (b==10).any()])
    assert sky.max()-sky.min() > .05 # one grey in the files
    assert torch.equal(*[torch.cat([x for x,_ in dls.valid]) for _ in range(2)])

def test_cityscapes_crops_and_flips(streets):
    "A training mask is a window of the file's, as it is or flipped, at many places"
    dls = streets_dls(streets, size=64, bs=6)
    whole = {f: torch.from_numpy(np.array(data.TrainIds()(data._label_ids(f)))) for f in dls.train.items}
    places = set()
    for _ in range(5):
        for f,y in zip(dls.train.items, dls.train.new(shuffle=False).one_batch()[1]):
            both = (0,whole[f]), (1,whole[f].flip(1))
            windows = {(i,flip): mask[:,i:i+64] for flip,mask in both for i in range(65)}
            place, = [k for k,w in windows.items() if torch.equal(w.long(), torch.Tensor(y).long())]
            places.add(place)
    assert len({i for i,_ in places}) > 5 and {flip for _,flip in places} == {0,1}

def test_cityscapes_splits(streets):
    "Cities are apart; `()` trains on all, as papers do"
    def cities(dls): return [sorted({f.parent.name for f in dl.items}) for dl in dls]
    dls = streets_dls(streets)
    assert cities(dls) == [['arden'], ['bree'], ['corinth']] and [len(dl.dataset) for dl in dls] == [6,3,2]
    assert cities(streets_dls(streets, valid=())) == [['arden','bree'], ['corinth'], ['corinth']]
    assert dls.valid.bs == 1 and dls.c == 19 and dls.vocab[13] == 'car'
    with pytest.raises(ValueError, match='arden, bree.*got jena, ulm, zurich'): cityscapes_dls(streets)
    with pytest.raises(ValueError, match='from 1 to 64'): streets_dls(streets, size=65)

def test_cityscapes_missing(streets, tmp_path):
    "A folder that is not there is named, and so is the mask of a picture"
    (streets/'gtFine/val').rename(tmp_path/'val')
    try:
        with pytest.raises(FileNotFoundError, match='folders of val'): streets_dls(streets)
    finally: (tmp_path/'val').rename(streets/'gtFine/val')
    f = next((streets/'gtFine/train/arden').iterdir())
    f.rename(tmp_path/f.name)
    try:
        with pytest.raises(FileNotFoundError, match=f'{f.name} is missing'): streets_dls(streets)
    finally: (tmp_path/f.name).rename(f)

@pytest.mark.filterwarnings('ignore')
def test_cityscapes_learner(streets, tmp_path):
    "Loss and metric leave void pixels out; the learner shows results, goes to a file and predicts from a path"
    dls = streets_dls(streets)
    learn = quiet(dls, deeplabv3plus('resnet18', n_classes=19, width=16), metrics=MeanIoU(), path=tmp_path)
    with learn.no_logging(): learn.fit(1)
    loss,miou = learn.validate(dl=dls.test)
    preds,targs = learn.get_preds(dl=dls.test)
    seen = torch.Tensor(targs) != 255
    want = nn.functional.nll_loss(torch.Tensor(preds).log().movedim(1, -1)[seen], torch.Tensor(targs).long()[seen])
    assert abs(loss-want) < .02 * want and 0 <= miou <= 1
    learn.show_results(max_n=2)
    learn.export()
    f = dls.test.items[0]
    assert torch.allclose(load_learner(tmp_path/'export.pkl').predict(f)[2], preds[0], atol=1e-5)

def test_mean_iou_is_scikit_learns():
    "Over several batches; void pixels change nothing"
    from sklearn.metrics import jaccard_score
    g = torch.Generator().manual_seed(0)
    class Step: pass
    metric,all_p,all_y = MeanIoU(),[],[]
    for _ in range(2): # the second round starts afresh
        metric.reset(); all_p.clear(); all_y.clear()
        for n in (3,2):
            step = Step()
            step.pred,step.y = torch.randn(n, 5, 6, 7, generator=g),torch.randint(0, 4, (n,6,7), generator=g)
            step.pred[:,3] = -9
            step.y[:,:2] = 255
            metric.accumulate(step)
            all_p.append(step.pred.argmax(1)[:,2:].flatten()); all_y.append(step.y[:,2:].flatten())
    p,y = torch.cat(all_p),torch.cat(all_y)
    assert abs(metric.value - jaccard_score(y, p, average='macro')) < 1e-6 and metric.name == 'miou'
