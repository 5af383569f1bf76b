"Networks for other tasks than classes: detectors, segmentation, U-nets. Each trains an epoch and is taken out"
import pytest, torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.vision.learner import unet_learner
from torch import nn
from torchvision.models import detection as det, resnet18, segmentation as seg
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from elastic_nets.all import Construct, Gradient, OnionTraining, Recipe
from helpers import quietly
from zoo import outputs

def pictures(n=2, side=64): return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))

class Detector(nn.Module):
    "A detector of torchvision as fastai wants it: pictures in, what its head says of every anchor out"
    def __init__(self, net):
        super().__init__()
        self.body, self.head, self.anchors = net.backbone, net.head, getattr(net, 'anchor_generator', None)
    def forward(self, x):
        found = self.body(x)
        found = [found] if isinstance(found, torch.Tensor) else [*found.values()]
        said = self.head(found)
        return torch.cat([said['bbox_regression'], said['cls_logits']], -1)

class Regions(nn.Module):
    "A Faster R-CNN with one region of fixed size: backbone, proposals' scores, and the second stage"
    def __init__(self, net):
        super().__init__()
        self.body, self.rpn, self.roi = net.backbone, net.rpn.head, net.roi_heads
    def forward(self, x):
        found = self.body(x)
        scores, _ = self.rpn([*found.values()])
        boxes = [torch.tensor([[4.,4.,40.,40.], [8.,8.,60.,60.]], dtype=x.dtype, device=x.device) for _ in x]
        regions = self.roi.box_head(self.roi.box_roi_pool(found, boxes, [tuple(x.shape[-2:])]*len(x)))
        said = torch.cat(self.roi.box_predictor(regions), 1).view(len(x), -1)
        return torch.cat([said, *[s.flatten(1) for s in scores]], 1)

class C2f(nn.Module):
    "Of YOLOv8: halves, blocks on the last one, and all of it joined"
    def __init__(self, n_in, n_out, n=2):
        super().__init__()
        self.a, self.b = conv(n_in, n_out, 1), conv((2+n)*n_out//2, n_out, 1)
        half = n_out//2
        self.m = nn.ModuleList(nn.Sequential(conv(half, half, 3), conv(half, half, 3)) for _ in range(n))
    def forward(self, x):
        y = list(self.a(x).chunk(2, 1))
        for m in self.m: y.append(y[-1]+m(y[-1]))
        return self.b(torch.cat(y, 1))

def conv(n_in, n_out, k, stride=1):
    return nn.Sequential(nn.Conv2d(n_in, n_out, k, stride, k//2, bias=False), nn.BatchNorm2d(n_out), nn.SiLU())

class Yolo(nn.Module):
    "Two scales, the coarse one upsampled and joined to the fine one"
    def __init__(self, n=16, n_out=9):
        super().__init__()
        self.stem, self.one, self.down = conv(3, n, 3, 2), C2f(n, 2*n), conv(2*n, 2*n, 3, 2)
        self.two, self.up, self.three = C2f(2*n, 4*n), nn.Upsample(scale_factor=2), C2f(6*n, 2*n)
        self.heads = nn.ModuleList([nn.Conv2d(2*n, n_out, 1), nn.Conv2d(4*n, n_out, 1)])
    def forward(self, x):
        fine = self.one(self.stem(x))
        coarse = self.two(self.down(fine))
        fine = self.three(torch.cat([self.up(coarse), fine], 1))
        return torch.cat([h(f).flatten(2) for h,f in zip(self.heads, (fine, coarse))], 2)

class Segments(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, x): return self.net(x)['out']

def retinanet():
    body = resnet_fpn_backbone(backbone_name='resnet18', weights=None, trainable_layers=5, returned_layers=[2,3,4])
    return Detector(det.RetinaNet(body, num_classes=3))

def ssdlite(): return Detector(det.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))

def faster_rcnn():
    return Regions(det.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3))

def deeplab(): return Segments(seg.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))

def unet():
    ds = [(p, torch.zeros(64, 64, dtype=torch.long)) for p in pictures()]
    dls = DataLoaders.from_dsets(ds, ds, bs=2, num_workers=0, device='cpu')
    return unet_learner(dls, resnet18, pretrained=False, normalize=False, n_out=3, loss_func=nn.CrossEntropyLoss(),
                        n_in=3).model

TASKS = {'RetinaNet': (retinanet, 'body'), 'SSDLite': (ssdlite, 'body'), 'Faster R-CNN': (faster_rcnn, 'body'),
         'DeepLabV3': (deeplab, 'net.backbone'), 'unet_learner': (unet, 'layers.0'), 'YOLO': (Yolo, 'two')}

@pytest.mark.parametrize('part', [False, True], ids=['whole','part'])
@pytest.mark.parametrize('task', TASKS)
def test_tasks(task, part):
    build, submodule = TASKS[task]
    torch.manual_seed(0)
    m, xb = build(), pictures()
    with torch.no_grad(): target = [torch.randn_like(o) for o in outputs(m.eval(), xb)]
    ds = [(x, y) for x,y in zip(xb, target[0])]
    dls = DataLoaders.from_dsets(ds, ds, bs=2, num_workers=0, device='cpu', shuffle=False)
    learn = Learner(dls, m, loss_func=nn.MSELoss())
    sn = learn.to_supernet(widths=(.5,1.), submodule=submodule if part else '')
    recipe = Recipe(Construct(k=2, smallest=True), Gradient('hard'))
    quietly(learn, 'fit', 1, 1e-4, cbs=OnionTraining(recipe, estimate=False, watch=()))
    for s in (sn.space.min, sn.space.sample(0)):
        small = sn.extract(s).eval()
        with sn.active(s), torch.no_grad():
            for a,b in zip(outputs(m.eval(), xb), outputs(small, xb)): assert (a-b).abs().max() <= 1e-5*b.abs().max()
    assert sn.n_params(sn.space.min) < .9*sn.n_params(sn.space.max)
