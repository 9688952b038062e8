"""Routes in the form of other services, for their clients: a module or package for each.

They use what `streamer` exports and nothing else of ours, as the plugin of a stranger would
(docs/compatibility.md).
"""
