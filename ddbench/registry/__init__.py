"""The plugin registry: loads plugins, looks up what they provide, and names the plugin in errors. Imports no torch."""
