"""Jobe, the sandbox server of CodeRunner for Moodle: its four routes and its languages."""
