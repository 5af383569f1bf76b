"Growing in depth in the middle of a fit"
import copy
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.hook import ActivationStats
from fastai.optimizer import SGD
from torch import nn
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.deepen import BlockEMA
from elastic_nets.grow.growing import GrowDepth
from elastic_nets.subnets.cost import macs
from helpers import optimizers, quietly
from helpers_grow import all_move, deep, is_as, learner, values

def blocks(m): return [b for b in m.blocks if any(True for _ in b.parameters())]

def ids(groups): return [[id(p) for p in g] for g in groups]

@pytest.mark.parametrize('opt', ['sgd','adam','adamw'])
@pytest.mark.parametrize('kw', [dict(), dict(block='model', place='stack'), dict(zero_last=True, half_life=5)],
                         ids=['ema','stack','zero'])
def test_depth_grows_in_a_fit(opt, kw):
    dense, grown = [learner(deep(), opt_func=optimizers[opt]) for _ in range(2)]
    cb = GrowDepth(start=.5, stages=2, **kw)
    quietly(dense, 'fit_one_cycle', 2, .003)
    quietly(grown, 'fit_one_cycle', 2, .003, cbs=cb)
    assert grown.recorder.lrs==dense.recorder.lrs and grown.recorder.stages is cb.rows
    assert [r['depth'] for r in cb.rows]==[.5,1.] and not hasattr(grown.model, 'growth')
    assert cb.rows[0]['macs']<cb.rows[1]['macs']==macs(deep(), grown.dls.one_batch()[0])
    deep().load_state_dict(grown.model.state_dict())
    assert ids(grown.opt.param_lists)==ids([grown.model.parameters()])
    assert all_move(lambda: quietly(grown, 'fit', 1, .003), grown.model)

def rest(m): return [p for n,p in m.named_parameters() if not n.startswith('blocks')]

def test_groups_follow_the_splitter():
    def split(m): return [list(m.blocks[:2].parameters()), list(m.blocks[2:].parameters())+rest(m)]
    learn = learner(deep(), splitter=split)
    quietly(learn, 'fit', 2, slice(1e-4,1e-3), cbs=GrowDepth())
    assert ids(learn.opt.param_lists)==ids(split(learn.model))

def test_a_place_says_who_is_frozen():
    "... not whose copy it is that came there"
    def split(m): return [list(m.blocks[:2].parameters()), list(m.blocks[2:].parameters()), rest(m)]
    learn = learner(deep(), splitter=split)
    learn.freeze_to(1)
    quietly(learn, 'fit', 2, slice(1e-4,1e-3), cbs=GrowDepth(discard_pretrained=True))
    trained = [{p.requires_grad for l in b.modules() if isinstance(l, nn.Linear) for p in l.parameters()}
               for b in learn.model.blocks]
    assert trained==[{False}]*2+[{True}]*2

def test_frozen_blocks_stay_frozen():
    "Copies of frozen blocks are frozen too, and discriminative rates are kept"
    def split(m):
        others = [p for n,p in m.named_parameters() if not n.startswith(('blocks','head'))]
        return [list(m.blocks.parameters()), others, list(m.head.parameters())]
    learn = learner(deep(), splitter=split)
    learn.freeze_to(1)
    mlp = values(learn.model.blocks[0].mlp)
    quietly(learn, 'fit', 2, slice(1e-4,1e-2), cbs=GrowDepth(discard_pretrained=True))
    linear = [p for l in learn.model.blocks.modules() if isinstance(l, nn.Linear) for p in l.parameters()]
    assert ids(learn.opt.param_lists)==ids(split(learn.model))
    assert not any(p.requires_grad for p in linear) and all(p.requires_grad for p in learn.model.head.parameters())
    assert is_as(learn.model.blocks[0].mlp, mlp) and learn.opt.hypers[0]['lr']<learn.opt.hypers[2]['lr']

class ByHand(Callback):
    "An average of each block, kept by hand, and the network as it is just after growing"
    order,run_valid,new = 100,False,None
    def before_fit(self):
        self.old = blocks(self.learn.model)
        self.avg = [[p.detach().clone() for p in b.parameters()] for b in self.old]
    def after_step(self):
        if self.new is not None: return
        d = .5**(1/5)
        self.avg = [[d*a+(1-d)*p.detach() for a,p in zip(avg, b.parameters())] for avg,b in zip(self.avg, self.old)]
    def before_batch(self):
        now = blocks(self.learn.model)
        if self.new is not None or len(now)==len(self.old): return
        self.at = [next((i for i,o in enumerate(self.old) if o is b), None) for b in now]
        self.new = copy.deepcopy(now)

@pytest.mark.parametrize('kw', [dict(half_life=5), dict(block='model'), dict(half_life=5, place='stack'),
                                dict(block='model', zero_last=True)], ids=['ema','model','stack','zero'])
def test_copies_are_of_what_was_asked_for(kw):
    "New blocks are copies of the average, or of the model, where they belong; or the identity"
    mine, learn = ByHand(), learner(deep(), opt_func=SGD)
    quietly(learn, 'fit', 2, .05, cbs=[GrowDepth(**kw), mine])
    stack, zero, average = kw.get('place')=='stack', 'zero_last' in kw, 'half_life' in kw
    assert mine.at==([0,1,None,None] if stack else [0,None,1,None])
    for i,j in enumerate(mine.at):
        if j is not None: continue # an old one
        source = i-2 if stack else i-1
        want = mine.avg[mine.at[source]] if average else list(mine.new[source].parameters())
        for p,q in () if zero else zip(mine.new[i].parameters(), want, strict=True):
            torch.testing.assert_close(p.detach(), q.detach())
        x = torch.randn(2, 16, 24)
        assert torch.equal(mine.new[i].eval()(x), x)==zero
    if average: assert not torch.equal(mine.avg[0][0], next(mine.new[0].parameters())) # it is not the model

@pytest.mark.parametrize('kw', [dict(half_life=5.), dict()], ids=['asked for','of the stage'])
def test_half_life_follows_the_stage_of_the_plan(kw):
    seen = set()
    class See(Callback):
        order,run_valid = 100,False
        def before_batch(self):
            if self.learn.grow_depth._ema: seen.add(self.learn.grow_depth._ema.decay)
    learn = quietly(learner(deep()), 'fit', 4, .001, cbs=[GrowDepth(**kw), See()])
    graph = trace_channels(learn.model, learn.dls.one_batch()[0])
    of_stage = BlockEMA(learn.model, graph, stage=2*len(learn.dls.train)).decay
    assert seen=={.5**(1/5) if kw else of_stage}

class Gated(nn.Module):
    "A residual block whose branch does not end with a layer"
    def __init__(self):
        super().__init__()
        self.f = nn.Conv2d(8, 8, 3, padding=1)
    def forward(self, x): return x+torch.sigmoid(self.f(x))

@pytest.mark.parametrize('kw,ex', [(dict(zero_last=True), NotElasticError), (dict(place=lambda b,c: b), ValueError)])
def test_plans_are_tried_before_training(kw, ex):
    layers = [nn.Conv2d(1, 8, 3, padding=1), *[Gated() for _ in range(4)], nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    learn = learner(nn.Sequential(*layers, nn.Linear(8, 10)))
    before = values(learn.model)
    with pytest.raises(ex): quietly(learn, 'fit', 2, cbs=GrowDepth(stages=2, **kw))
    assert is_as(learn.model, before)

def test_new_blocks_have_no_hooks_of_callbacks():
    learn = quietly(learner(deep(), cbs=ActivationStats()), 'fit', 2, cbs=GrowDepth(stages=2))
    assert len(blocks(learn.model))==4 and not any(m._forward_hooks for m in learn.model.modules())
