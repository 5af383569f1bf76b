"""Tests each notebook that stdin names, in a fork of this process, and prints its exit code; its words go to its log

Imported before is what nearly every notebook waits for, seconds each, and what the arguments name."""
import importlib, os, sys
import matplotlib.pyplot, pandas, scipy.stats, torch, torchvision # noqa: E401, F401
from nbdev.test import nbdev_test

for name in sys.argv[1:]: importlib.import_module(name)
for line in sys.stdin:
    notebook, log = line.rstrip('\n').split('\t')
    child = os.fork()
    if not child:
        for stream,name,mode in ((0,os.devnull,'r'), (1,log,'a'), (2,log,'a')):
            with open(name, mode) as f: os.dup2(f.fileno(), stream)
        sys.exit(nbdev_test(notebook))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
