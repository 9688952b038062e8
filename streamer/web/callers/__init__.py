"""Who calls, from where, and what they may."""
