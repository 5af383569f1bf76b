"Private batch norms"
import torch
from torch import nn
from elastic_nets.subnets.supernet import Supernet

def no_norms(): return Supernet(nn.Sequential(nn.Linear(4,8), nn.Linear(8,2)), torch.randn(2,4))

ERRORS = [
    ('private norms where there are none', lambda: no_norms().private_bn([]), 'no batch norm'),
]
