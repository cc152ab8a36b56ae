"""A job that takes longer than its client waits."""

import time

time.sleep(150)
