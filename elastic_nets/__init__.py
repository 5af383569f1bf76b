"""Train many networks inside one, or one network faster by growing it, with fastai and PyTorch

Modules:

- `elastic_nets.app.demo`: `elastic-nets demo` trains a family of networks, and one network by growing it, and writes down what it measured
- `elastic_nets.channels.blocks`: A residual block is its input plus something made of it: without it, the input goes on
- `elastic_nets.channels.graph`: What the labels say of a network, as a value that prints and draws
- `elastic_nets.channels.labels`: Label every channel of a network once, and cutting, growing and sorting become indexing
- `elastic_nets.channels.order`: A subnet keeps the leading channels. Which should lead?
- `elastic_nets.channels.place`: One translation of a subnet into tensors, made once and kept
- `elastic_nets.channels.products`: What a network costs is matrices multiplied. Some are weights, some are not: here both are counted.
- `elastic_nets.channels.rules`: What joins, contractions, normalisations and attention do to labels
- `elastic_nets.channels.surgery`: Cut, fill and reorder tensors, and let layers and optimizers follow
- `elastic_nets.channels.trace`: Find out which weights move together, and trust nothing
- `elastic_nets.channels.walk`: Run a network once, for real, with labels beside the numbers
- `elastic_nets.grow.after`: A warning where growth destroyed what had been learned, and a learning rate that rises again after it
- `elastic_nets.grow.averages`: A callback of yours that keeps a copy of the model is told when the model has grown
- `elastic_nets.grow.deepen`: Start with the first blocks of every stage of like blocks, train, and add the others as copies of what was learned
- `elastic_nets.grow.growing`: One callback: any `fit` starts with a small network and ends with yours
- `elastic_nets.grow.seeded`: The core is trained alone, the network grows inside its own weights, then the family: one fit, one recipe
- `elastic_nets.grow.stages`: FLOPs are not seconds: measure first, then plan when the network grows
- `elastic_nets.grow.widen`: Start with a part of every layer's channels, train, and add the rest later without losing what was learned
- `elastic_nets.look.explore`: Sliders for a subnet, a plan of growth and epsilon; players of the same pictures where nothing can be turned
- `elastic_nets.look.plots`: A style sheet, and the pictures of this library: the onion always the same way up, weights, gradients, fronts
- `elastic_nets.shrink.choices`: Rules against conflicts, momentum of one's own, a rate per skin, odds, annealing: what you can plug into a recipe
- `elastic_nets.shrink.gradients`: How the gradients of a network and of the networks inside it become one update
- `elastic_nets.shrink.methods`: Six published methods for training many networks in one, and what won in our own search, each a value
- `elastic_nets.shrink.recipe`: Which networks, from what they learn, who steps, and when
- `elastic_nets.shrink.step`: Plain PyTorch: what happens to one batch
- `elastic_nets.shrink.training`: One callback trains a network and the networks inside it by any recipe
- `elastic_nets.shrink.watching`: What a fit will take, alarms, metrics of subnets, and gradients to look at
- `elastic_nets.subnets.batches`: The inputs of any loader, at any size, and running statistics recomputed
- `elastic_nets.subnets.budgets`: At most a million multiply-accumulates: every draw keeps the budget, and uses nearly all of it
- `elastic_nets.subnets.choices`: From "a quarter, a half, all" to the numbers of channels, blocks and kernels of a network
- `elastic_nets.subnets.cost`: What a network, a subnet and a training run cost: products, parameters, seconds and money
- `elastic_nets.subnets.elastic`: A layer that works with a part of its weights, whatever kind of layer it is
- `elastic_nets.subnets.learner`: Make the model of a fastai learner elastic, and take a subnet out as a learner
- `elastic_nets.subnets.norms`: What a subnet has for itself: statistics, whole batch norms; and how it is saved
- `elastic_nets.subnets.ranks`: What processes have to tell each other so that all of them train the same network
- `elastic_nets.subnets.subnet`: A subnet is a value: it can be compared, counted, sampled and written down
- `elastic_nets.subnets.supernet`: Beside your model: switch a subnet on inside it, count what it costs, or take it out as a plain network
- `elastic_nets.use.checkpoint`: A fit that was killed goes on where it was, and ends with the same weights, bit for bit
- `elastic_nets.use.deploy`: A subnet as an ONNX file that is compared with PyTorch before you get it; then with whole numbers of 8 bits
- `elastic_nets.use.evaluate`: One training leaves thousands of networks: which are worth having, and is this supernet better than that one?
- `elastic_nets.use.half`: One callback for bfloat16, on a graphics card and on a CPU
- `elastic_nets.use.latency`: MACs are not milliseconds: measure some subnets here, predict all others, and know how well before it is used
- `elastic_nets.use.published`: A supernet costs days on many cards; the weights of some are published, and load under whatever names they have
- `elastic_nets.use.save`: A subnet as a file that opens anywhere: weights and a few lines of JSON, nothing that runs when it is read
- `elastic_nets.use.search`: Who has trained a family names a budget, and gets the most accurate network within it
- `elastic_nets.use.switch`: One supernet in memory serves a range of budgets: picking a network takes a microsecond, in any number of threads
- `elastic_nets.zoo.attentive`: The largest network of AttentiveNAS in plain PyTorch, and the `Space` of all the networks inside it
- `elastic_nets.zoo.data`: Data that is always there, and the papers' data sets, in three splits each
- `elastic_nets.zoo.models`: The networks of the papers, in plain PyTorch: what the rest of the library makes elastic
- `elastic_nets.zoo.spaces`: The largest network of each paper in plain PyTorch, and the `Space` of all the networks inside it"""

__version__ = "0.1.0"
