"""Measure speed; nothing here is asserted, since machines are shared and noisy."""
