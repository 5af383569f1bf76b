"The models of the second table of docs/coverage.md: how each is built, and what it takes"
import functools
from dataclasses import dataclass
import timm, torch
from fastai.tabular.model import TabularModel
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config, awd_lstm_lm_config
from fastai.text.models.core import get_language_model, get_text_classifier
from fastai.vision.learner import create_unet_model
from torch import nn
from torchvision.models import detection, resnet18, segmentation, video
from transformers_zoo import ZOO as TRANSFORMERS

@dataclass(frozen=True)
class Model:
    name:str
    build:object # Function without arguments
    inputs:object # Function without arguments: a batch, a tuple of inputs, or a dict of inputs by keyword
    shown:str # The inputs, for the table
    slow:bool=False # Is it left to `make coverage-all`?

def _timm(line, slow):
    "`name:pixels`, with `!` where the model is told the size of its pictures"
    name, _, size = line.partition(':')
    options = dict(img_size=int(size[:-1])) if size.endswith('!') else {}
    size = int(size.rstrip('!'))
    build = functools.partial(timm.create_model, name, num_classes=10, **options)
    return Model(f'timm {name}', build, lambda: torch.randn(1,3,size,size), f'{size} pixels', slow)

# the smallest member of each family of timm's, and for some another one
_FAST = '''
cpubone_nano:64 cs3darknet_focus_s:64 cspnext_tiny:64 davit_tiny:64 deit_tiny_patch16_224:64! densenet121:64
dla34:64 edgenext_xx_small:64 efficientformer_l1:224 efficientvim_m1:64 efficientvit_b0:64 convit_tiny:64!
ese_vovnet19b_slim_dw:64 fasternet_t0:64 fastvit_s12:64 focalnet_tiny_srf:64 gmixer_12_224:64! levit_128s:64!
hardcorenas_b:64 hgnetv2_b0:64 hrnet_w18_small:64 inception_next_atto:64 inception_v3:96 lcnetv2_small:64
legacy_seresnet18:64 legacy_xception:64 lowformer_b0:64 mobilevit_xxs:64! mvitv2_tiny:64! nest_tiny:64!
pit_xs_224:64! pvt_v2_b0:64 regnetx_002:64 repvit_m1:64! resnest14d:64 resnetv2_18:64 rexnet_100:64
selecsls42:64 shvit_s1:64 skresnet18:64 starnet_s1:64 swiftformer_xs:64! test_byobnet:64! test_coatnet:64!
test_convnext:64 test_efficientnet:64 test_mambaout:64 test_nfnet:64 test_resnet:64 test_vit:64!
test_vit_relpos:64! tnt_s_legacy_patch16_224:64! visformer_tiny:64! vit_tiny_r_s16_p8_224:64! vitamin_small_224:64!
xcit_nano_12_p8_224:64! vit_tiny_patch16_dinov3_qkvb:64! repghostnet_050:64 efficientvit_m0:64
'''
_SLOW = '''
caformer_s18:64 cait_xxs24_224:64! coat_tiny:64! convmixer_768_32:64 crossvit_tiny_240:64
csatv2:64 dpn68:64 eca_halonext26ts:256 efficientformerv2_s0:64! gcvit_xxtiny:64!
hiera_tiny_224:64! iformer_s:64 rdnet_tiny:64 res2net50_14w_8s:64 inception_v4:96 inception_resnet_v2:96
sam2_hiera_tiny:64 sequencer2d_s:64! swin_tiny_patch4_window7_224:64! swinv2_cr_tiny_224:64! tresnet_m:64
swinv2_tiny_window8_256:64! tiny_vit_5m_224:64 twins_svt_small:64! volo_d1_224:64! xception41p:64 nextvit_small:64
'''

class TwoInputs(nn.Module):
    "A picture and some numbers about it"
    def __init__(self):
        super().__init__()
        self.eye, self.table = resnet18(num_classes=32), nn.Sequential(nn.Linear(6,32), nn.ReLU(), nn.Linear(32,32))
        self.head = nn.Sequential(nn.Linear(64,32), nn.ReLU(), nn.Linear(32,2))
    def forward(self, picture, numbers): return self.head(torch.cat([self.eye(picture), self.table(numbers)], 1))

def _picture(n): return lambda: torch.randn(1,3,n,n)

def _unet(): return create_unet_model(resnet18, 2, (64,64), pretrained=False)

def _tabular(): return TabularModel([(10,6),(7,5)], 3, 2, [40,20])

def _text(): return torch.randint(0, 60, (1,12))

_AWD = dict(emb_sz=40, n_hid=60, n_layers=2, pad_token=1)

def _words(): return get_text_classifier(AWD_LSTM, 60, 2, seq_len=12, config=dict(awd_lstm_clas_config, **_AWD))

def _language(): return get_language_model(AWD_LSTM, 60, config=dict(awd_lstm_lm_config, **_AWD))

def _backbone(name, **options):
    return lambda: getattr(detection, name)(weights=None, weights_backbone=None, **options).backbone

def _segment(name): return functools.partial(getattr(segmentation, name), weights=None, weights_backbone=None)

def _film(): return torch.randn(1,3,8,32,32)

MODELS = [
    *[_timm(line, False) for line in _FAST.split()],
    *[_timm(line, True) for line in _SLOW.split()],
    Model('torchvision deeplabv3_resnet50', _segment('deeplabv3_resnet50'), _picture(64), '64 pixels', True),
    *[Model(f'torchvision {n}', functools.partial(getattr(video, n), num_classes=10), _film, '8 frames of 32 pixels',
            n!='r3d_18') for n in ('r3d_18','mc3_18','r2plus1d_18')],
    Model('backbone of torchvision retinanet_resnet50_fpn', _backbone('retinanet_resnet50_fpn'), _picture(64),
          '64 pixels', True),
    Model('backbone of torchvision ssdlite320_mobilenet_v3_large', _backbone('ssdlite320_mobilenet_v3_large'),
          _picture(64), '64 pixels'),
    Model('backbone of torchvision fasterrcnn_mobilenet_v3_large_fpn', _backbone('fasterrcnn_mobilenet_v3_large_fpn'),
          _picture(64), '64 pixels'),
    Model('fastai unet_learner resnet18', _unet, _picture(64), '64 pixels'),
    Model('fastai TabularModel', _tabular, lambda: (torch.randint(0,6,(2,2)), torch.randn(2,3)),
          '2 categories, 3 numbers'),
    Model('fastai text classifier (AWD-LSTM)', _words, _text, '12 words'),
    Model('fastai language model (AWD-LSTM)', _language, _text, '12 words'),
    Model('a picture and a table', TwoInputs, lambda: (torch.randn(1,3,64,64), torch.randn(1,6)),
          '64 pixels, 6 numbers'),
    *[Model(n if n[:2]=='nn' else f'transformers {n}', build, x, 'small') for n,(build,x) in TRANSFORMERS.items()
      if not n.split('_')[0] in ('swinv2','vit','eva02','cait','maxvit','coatnet','twins')],
    *[Model(f'timm {n}', *TRANSFORMERS[n], 'small') for n in ('eva02_tiny_patch14_224','maxvit_nano_rw_256')],
]
