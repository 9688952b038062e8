"""The configuration: its schema, and how it is loaded with the origin of each value.

Imports the model only.
"""
