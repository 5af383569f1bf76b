"Which layers are cut together, beside Torch-Pruning's answers, which scripts/torch_pruning_groups.py wrote down"
import json
from pathlib import Path
import pytest
from torch import nn
from coverage import page
from elastic_nets.channels.trace import trace_channels
from zoo import zoo

facts = json.loads(Path(__file__).with_name('torch_pruning.json').read_text(encoding='utf-8'))
answers = {n:{frozenset(layers) for layers in a} for n,a in facts['groups'].items() if not isinstance(a, str)}

def whole_groups(modules, ours, theirs):
    "What a grouped convolution reads and what it makes are one group of ours"
    def grouped(n): return isinstance(modules[n], nn.Conv2d) and 1<modules[n].groups<modules[n].out_channels
    def merged(layers): return frozenset().union(*[t for t in theirs if t & layers])
    same_layers = frozenset().union(*ours)==frozenset().union(*theirs)
    return same_layers and all(any(map(grouped, o)) and merged(o)==o for o in ours-theirs)

def training_branches(modules, ours, theirs):
    "Branches that run in training only are not seen there"
    return theirs<ours and all(n.startswith('aux') for layers in ours-theirs for n in layers)

def inside_attention(modules, ours, theirs):
    "`nn.MultiheadAttention` is one layer there, whatever is inside"
    inside = {f'{n}.out_proj' for n,m in modules.items() if isinstance(m, nn.MultiheadAttention)}
    return bool(inside) and {layers-inside for layers in ours}=={layers-inside for layers in theirs}

REASONS = {'regnet_x_400mf': whole_groups, 'regnet_y_400mf': whole_groups, 'resnext50_32x4d': whole_groups,
           'googlenet': training_branches, 'vit_b_16': inside_attention}

@pytest.mark.parametrize('name', answers)
def test_groups_are_torch_prunings(name):
    case, theirs = zoo[name], answers[name]
    model = case.model()
    modules = dict(model.named_modules())
    graph = trace_channels(model, case.xb(1), check=False)
    ours = {frozenset(n for n in g.makers if isinstance(modules.get(n), (nn.Conv2d, nn.Linear)))
            for g in graph.groups.values()}-{frozenset()}
    if name in REASONS: assert ours!=theirs and REASONS[name](modules, ours, theirs), REASONS[name].__doc__
    else: assert ours==theirs

def test_the_page_says_so():
    text, stops = page.read_text(encoding='utf-8').partition('| model |')[0], facts['groups'].keys()-answers.keys()
    said = text.partition('Torch-Pruning')[2]
    assert said and f'{len(answers)-len(REASONS)} of {len(facts["groups"])}' in said
    assert not [n for n in {*REASONS, *stops} if f'`{n}`' not in said]
