"Pictures"
import torch
from elastic_nets.look.plots import onion_colors, plot_matrix, plot_onion

ERRORS = [
    ('no colours', lambda: onion_colors(0), 'n: a number of networks from 1'),
    ('networks that are not nested', lambda: plot_onion((8,8), [4,2]), '(4, 4) does not lie inside (2, 2)'),
    ('larger than the weight', lambda: plot_onion((8,4), [8]), '(8, 8) does not lie inside (8, 4)'),
    ('no networks', lambda: plot_onion((8,8), []), 'sizes: none given'),
    ('too few names', lambda: plot_onion((8,8), [2,8], ['core']), 'one for each of the 2 sizes, got 1'),
    ('a vector', lambda: plot_matrix(torch.zeros(3)), '2 to 4 dimensions can be drawn'),
    ('a 3D convolution', lambda: plot_matrix(torch.zeros(2,2,3,3,3)), '2 to 4 dimensions can be drawn'),
]
