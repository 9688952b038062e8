"""The command line: its commands, and running a program here or on a remote service.

It may import every other room; nothing imports it.
"""
