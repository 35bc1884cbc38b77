"""Is the answer right? Baselines and certificates, curves, sanity, stability, and what classes need."""
