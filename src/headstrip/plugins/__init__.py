"""Finding, checking and loading the plugins that are installed."""
