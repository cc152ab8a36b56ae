"""A call into C that keeps the global interpreter lock, and threads that want it."""
import ctypes
import os
import sys
import threading
import time

started = threading.Event()


def wants():
    started.set()
    while True:
        time.sleep(0.001)


def keeps():
    started.wait()
    print("ready", os.getpid(), sys.version.split()[0], flush=True)
    ctypes.PyDLL(None).sleep(9999)


threading.Thread(target=wants, daemon=True).start()
keeps()
