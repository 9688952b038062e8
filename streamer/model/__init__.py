"""The values that cross borders: a job, its limits, its events, languages and hosts.

No I/O and no asyncio; everything else may import it.
"""
