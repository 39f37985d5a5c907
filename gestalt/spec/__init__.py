"""The app description: schema, loader, defaults."""
