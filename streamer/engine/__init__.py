"""Where jobs wait, where their events are kept, and who runs them: the interface and its engines.

Imports the event log and the model; both halves of the service are built on it.
"""
