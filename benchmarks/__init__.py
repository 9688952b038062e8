"""Measure speed; nothing is asserted, since machines are shared and noisy."""
