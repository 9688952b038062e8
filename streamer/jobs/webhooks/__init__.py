"""Tell the ends of jobs to others: where to, what is said, and again until it is heard.

How a request is sent is not known here: the web knows HTTP.
"""
