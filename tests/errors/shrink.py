"Recipes, schedules, plug-ins and the callback"
import math
from dataclasses import replace
from functools import partial
from torch.nn import functional as F
from elastic_nets.shrink.choices import Annealed, ByImportance, OwnMomentum, RatePerSkin, combine_avg
from elastic_nets.shrink.gradients import distill_loss
from elastic_nets.shrink.methods import compofa, delayed_shrinking, onion, slimmable
from elastic_nets.shrink.recipe import (
    Construct, Delayed, Gradient, Phase, Phases, Recipe, Update, inside_out, outside_in
)
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.watching import GradientProbe

hard = Recipe(gradient=Gradient('hard'))
flags = dict(smallest=Construct, matrices=Construct, dropout=Gradient, code=Delayed, full=partial(Phase, 1),
             teach=partial(Phase, 1))
some_phases = Phases((Phase(1, full=False),))

def rows(label, make, values, message): return [(f'{label} {v!r}', partial(make, v), message) for v in values]
def share(name, make, values, message):
    return rows(name, lambda v: make(**{name:v}), values, f'{name}: a share in {message}')

ERRORS = [
    *share('warmup', delayed_shrinking, (1., 1.5, -.1), '[0, 1)'),
    *share('ramp', delayed_shrinking, (1.5,), '[0, 1]'),
    *share('eps0', delayed_shrinking, (0, 1.1, -1, math.nan), '(0, 1]'),
    *share('lr_floor', Delayed, (1.1,), '[0, 1]'),
    *share('end', Annealed, (0.,), '(0, 1]'),
    *share('lr', partial(Phase, 1), (2.,), '(0, 1]'),
    *[(f'warmup of a phase {v}', partial(Phase, 1, warmup=v), 'warmup: a share in [0, 1)') for v in (1.,)],
    *rows('k of a recipe', delayed_shrinking, (0, -1, 2.), 'k: .*from 1'),
    *rows('k of a phase', lambda k: Phase(1, k=k), (0, -1, 2.5), 'k: .*from 1'),
    *rows('k of slimmable', slimmable, (1,), 'k: the widths are a whole number from 2'),
    *rows('k of onion', onion, (1,), 'k: the widths are a whole number from 2'),
    *rows('length', Phase, (0, '1'), 'length: more than 0'),
    *rows('teacher', compofa, (-1,), 'teacher: the length'),
    *[(f'{n}={.5}', partial(make, **{n:.5}), f'{n}: True or False, got 0.5') for n,make in flags.items()],
    *[(f'skins of {f.__name__}', partial(f, 1), 'n: a number of skins from 2') for f in (inside_out, outside_in)],
    *[(f'share of {f.__name__}', partial(f, share=1.), 'share: a share in (0, 1)') for f in (inside_out, outside_in)],
    ('annealing without time', lambda: Annealed(.3, .7, end=.1), 'end: .*0.3\\+0.7'),
    ('one level', lambda: Construct(levels=1), 'levels: 0, or .*from 2'),
    ('a dimension that is none', lambda: Construct(dims=('widths',)), 'dims: some of'),
    ('no dimension', lambda: Construct(dims=()), 'dims: some of'),
    ('spacing of no levels', lambda: Construct(spacing=lambda space, n, macs: []), 'spacing: it spaces levels'),
    ('spacing by name', lambda: Construct(levels=4, spacing='macs'), 'spacing: a function'),
    ('when sorted', lambda: Construct(sort='twice'), "sort: .*'never', 'once', 'phases'; got 'twice'"),
    ('which norms', lambda: Construct(bn='own'), "bn: .*'shared', 'private', 'statistics'; got 'own'"),
    ('odds by name', lambda: Construct(odds='best'), 'odds: a class'),
    ('odds of levels', lambda: Construct(levels=3, odds=ByImportance), 'odds: they are for drawing among many subnets'),
    ('private norms of any number', lambda: Construct(bn='private'), "bn: 'private' needs .*levels"),
    ('private norms sorted', lambda: Construct(levels=2, bn='private', sort='phases'), "sort: 'phases' would"),
    ('target', lambda: Gradient('soft'), "target: .*'hard', 'distill', 'next', 'teacher'; got 'soft'"),
    ('rule by name', lambda: Gradient(combine='avg'), "combine: a function .*got 'avg'"),
    ('rule of one argument', lambda: Gradient(combine=lambda g: g.sum(0)), 'combine: .*yours says'),
    ('rule without a sum', lambda: Gradient(combine=lambda g, o, w: g), 'should return (3,4)'),
    ('steps', lambda: Update('each'), "steps: .*'joint', 'small first', 'large first'; got 'each'"),
    ('rule of steps by name', lambda: Update('small first', 'mine'), 'rule: a class'),
    ('own momentum, one step', lambda: Update(rule=OwnMomentum), "rule: .*choose steps='small first' or 'large first'"),
    ('rate per skin, many steps', lambda: Update('small first', RatePerSkin), "rule: .*Use steps='joint'"),
    ('subspace', lambda: Phase(1, (('widths',1),)), 'widths'),
    *rows('phases', Phases, ((), (1,)), 'phases: .*at least one Phase'),
    ('growing by name', lambda: Phases((Phase(1),), grow='variance'), "grow: a function .*got 'variance'"),
    ('a target of one phase', lambda: Phase(1, target='teacher'), "in this phase, one of 'hard', 'distill'"),
    *share('eps', partial(Phase, 1), (0.,), '(0, 1]'),
    ('nothing to combine', lambda: Recipe(gradient=Gradient(combine=combine_avg), update=Update('small first')),
     'gradient: .*nothing to combine'),
    ('next, small first', lambda: Recipe(gradient=Gradient('next'), update=Update('small first')),
     "target='next' .*'large first' or 'joint'"),
    ('next, not always full', lambda: Recipe(gradient=Gradient('next'), schedule=some_phases),
     "target='next' .*full=False"),
    *[(f'{f}={v!r}', partial(Recipe, **{f:v}), f'{f}: .*expected, got', TypeError)
      for f,v in dict(construct=4, gradient='sum', update='joint', schedule=.5).items()],
    ('schedule that is a class', lambda: Recipe(schedule=Delayed), 'schedule: ', TypeError),
    ('recipe that is a function', lambda: OnionTraining(delayed_shrinking), 'recipe: a Recipe', TypeError),
    ('watched subnet', lambda: OnionTraining(hard, watch=('max',)), "watch: some of 'min' and 'mid', got 'max'"),
    ('distill by name', lambda: OnionTraining(Recipe(), distill='kl'), 'distill: a function', TypeError),
    ('distill for labels', lambda: OnionTraining(hard, distill=F.mse_loss), 'distill: .*hard labels'),
    ('probe', lambda: GradientProbe(0), 'every: a whole number'),
    ('loss without a scalar', lambda: distill_loss(partial(F.mse_loss, reduction='none')), "reduction 'mean' or 'sum'"),
    ('frozen recipe', lambda: setattr(replace(hard), 'update', None), 'a Recipe does not change', AttributeError),
]
