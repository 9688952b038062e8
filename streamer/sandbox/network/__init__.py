"""The way out of a sandbox to the hosts that the configuration lists."""
