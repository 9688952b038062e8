"""The engine interface and the memory engine: the queue, the events and the leases of jobs.

Imports the event log and the model; both halves of the service are built on it.
"""
