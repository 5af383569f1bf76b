"Every public name of the library: `from elastic_nets.all import *`"
from .channels.labels import *
from .channels.walk import *
from .channels.graph import *
from .channels.place import *
from .channels.surgery import *
from .channels.products import *
from .channels.trace import *
from .channels.order import *
from .subnets.subnet import *
from .subnets.choices import *
from .subnets.elastic import *
from .subnets.batches import *
from .subnets.supernet import *
from .subnets.norms import *
from .subnets.learner import *
from .subnets.cost import *
from .subnets.budgets import *
from .subnets.ranks import *
from .shrink.gradients import *
from .shrink.recipe import *
from .shrink.step import *
from .shrink.watching import *
from .shrink.training import *
from .shrink.methods import *
from .shrink.choices import *
from .grow.averages import *
from .grow.widen import *
from .grow.deepen import *
from .grow.stages import *
from .grow.growing import *
from .grow.seeded import *
from .use.evaluate import *
from .use.search import *
from .use.latency import *
from .use.save import *
from .use.checkpoint import *
from .use.published import *
from .use.switch import *
from .use.deploy import *
from .use.half import *
from .look.plots import *
from .look.explore import *
from .zoo.models import *
from .zoo.spaces import *
from .zoo.attentive import *
from .zoo.data import *

from fastai.learner import Learner as _Learner
from ._docments import show_docments as _show_docments
_show_docments([o for n,o in vars().items() if n[0]!='_'], _Learner)
