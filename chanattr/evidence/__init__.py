"""Evidence that answers are right: baselines and certificates, curves, sanity, stability, and what classes need."""
