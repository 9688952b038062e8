"""Dify's code sandbox: the routes that its workflows send the programs of code nodes to."""
