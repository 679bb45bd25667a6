"""Settings of every test, also of the plugins'."""

import signal
import threading

from hypothesis import settings

# An example's time says nothing on a machine that does other things too; how many examples there are does.
settings.register_profile("ddbench", deadline=None)
settings.load_profile("ddbench")

# A job that a shell starts in the background ignores Ctrl-C, and would hand that on to the commands under test.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
