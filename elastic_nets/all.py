"Every public name of the library: `from elastic_nets.all import *`"
from .channels import *
from .subnets import *
from .supernet import *
from .cost import *
from .models import *
from .data import *
from .spaces import *
from .gradients import *
from .onion import *
from .recipes import *
from .widen import *
from .deepen import *
from .growing import *
from .search import *
