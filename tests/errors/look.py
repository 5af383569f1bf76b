"Pictures"
import torch
from types import SimpleNamespace
from elastic_nets.grow.stages import StagePlan
from elastic_nets.look.explore import EpsilonExplorer, GrowthExplorer
from elastic_nets.look.plots import (
    channel_gradients, onion_colors, plot_blocks, plot_channel_gradients, plot_correlation, plot_epsilon,
    plot_insertion, plot_loss, plot_matrix, plot_onion)

ERRORS = [
    ('no colours', lambda: onion_colors(0), 'n: a number of networks from 1'),
    ('networks that are not nested', lambda: plot_onion((8,8), [4,2]), '(4, 4) does not lie inside (2, 2)'),
    ('larger than the weight', lambda: plot_onion((8,4), [8]), '(8, 8) does not lie inside (8, 4)'),
    ('no networks', lambda: plot_onion((8,8), []), 'sizes: none given'),
    ('too few names', lambda: plot_onion((8,8), [2,8], ['core']), 'one for each of the 2 sizes, got 1'),
    ('a vector', lambda: plot_matrix(torch.zeros(3)), '2 to 4 dimensions can be drawn'),
    ('a 3D convolution', lambda: plot_matrix(torch.zeros(2,2,3,3,3)), '2 to 4 dimensions can be drawn'),
    ('a core outside of its weight', lambda: plot_blocks(torch.zeros(4,4), (5,4)), 'inside (4, 4), got (5, 4)'),
    ('maps that are pictures', lambda: plot_correlation(torch.zeros(2,3,4)), 'a matrix (channels, numbers)'),
    ('no blocks', lambda: plot_insertion({}), 'rows: none given'),
    ('a fit without a step', lambda: plot_loss(SimpleNamespace(losses=[])), 'recorder: it has no losses'),
    ('no steps', lambda: plot_epsilon({}, 0), 'n: a number of steps from 1, got 0'),
    ('only old channels', lambda: channel_gradients(torch.zeros(4,2), 4), 'between 1 and 3 of the outputs'),
    ('gradients of no step', lambda: plot_channel_gradients([]), 'rows: none given'),
    ('neither norm nor angle', lambda: plot_channel_gradients([{}], 'size'), "what: 'norm' or 'angle', got 'size'"),
    ('a plan without seconds', lambda: GrowthExplorer(StagePlan((.5,1.), (0.,.5))), 'a StagePlan with measurements'),
    ('a ramp of one step', lambda: EpsilonExplorer(1), 'n: a number of steps from 2'),
]
