"""The values that cross the borders of rooms: a job, its limits, its events, languages and hosts.

No I/O and no asyncio. Every room may import it; it imports `streamer.errors` only.
"""
