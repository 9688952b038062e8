"""A log of events that is framed once and read by integer cursors, in memory and on disk.

It imports the model only and knows no HTTP; the log of a job (`joblog`) adds the terminal event.
"""
