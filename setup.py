"Everything a user may want to read lives in settings.ini, the version in the package; the rest in pyproject.toml"
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
cfg = ConfigParser()
cfg.read_string((here/'settings.ini').read_text(encoding='utf-8'))
init = (here/'elastic_nets/__init__.py').read_text(encoding='utf-8')

setup(
    version=re.search(r'^__version__ = "(.+)"', init, re.M)[1],
    description=cfg['package']['description'],
    keywords=cfg['package']['keywords'].split(),
    install_requires=cfg['package']['requirements'].split(),
    extras_require={k: v.split() for k,v in cfg['extras'].items()},
)
