"""Which backbone suits labelled images: one protocol for all, and verdicts that can say "tie"."""
