"""List all backbones, find the plugin that owns each, and resolve names."""
