"Every public name of the library: `from elastic_nets.all import *`"
from .channels import *
from .subnets import *
from .supernet import *
from .models import *
from .data import *
