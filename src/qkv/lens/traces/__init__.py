"""What is kept of what was seen: layers with q, k and lse, read as `trace[layer, head]`."""
