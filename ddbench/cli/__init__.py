"""The command line. No module in this package imports torch until a command needs it."""
