"""A log of events that is framed once and read by integer cursors, in memory and on disk.

Knows no HTTP; the log of a job (`joblog`) adds what a terminal event is.
"""
