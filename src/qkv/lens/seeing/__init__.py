"""How attention calls are seen: whatever makes them, each is read in one form, at its place."""
