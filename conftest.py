"""Settings of every test, also of the plugins'."""

from hypothesis import settings

# An example's time says nothing on a machine that does other things too; how many examples there are does.
settings.register_profile("ddbench", deadline=None)
settings.load_profile("ddbench")
