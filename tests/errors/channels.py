"What a network must be, for its channels to be found"
import torch
from torchvision.models import resnet18
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.channels.trace import trace_channels

def trace(model, *shape, **kwargs): return trace_channels(model, torch.randn(*shape), **kwargs)

def by_hand(*layers): return trace(resnet18(), 2, 3, 64, 64, groups={'a': [*layers]})

ERRORS = [
    ('an input of another shape', lambda: trace(resnet18(), 2, 5, 64, 64),
     r'does not run on `xb` of shape .*1, 5, 64, 64'),
    ('a group by hand that forgets a layer', lambda: by_hand('layer1.0.conv1', 'layer1.0.conv2'), 'layer1.0',
     NotElasticError),
    ('a group by hand of one layer', lambda: by_hand('layer1.0.conv1'),
     'a layer that makes the channels and one that reads'),
    ('a group by hand with a layer that is not there', lambda: by_hand('layer1.0.conv1', 'nope'), "no layer 'nope'"),
    ('a group by hand with a layer without a rule', lambda: by_hand('layer1.0.conv1', 'layer1.0'),
     "no rule for 'layer1.0' of class BasicBlock"),
]
