"""The network: layers found, hooks placed, the part after a layer cut out, models loaded."""
