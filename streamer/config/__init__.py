"""The configuration: its schema, and loading it with the origin of each value.

Imports the model only; every room that is configured may import it.
"""
