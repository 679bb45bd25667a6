"""The plugin registry: loads plugins, looks up their items, and names the plugin in errors. Imports no torch."""
