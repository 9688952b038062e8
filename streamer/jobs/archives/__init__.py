"""Read uploaded archives and turn them into stored projects (`streamer.model.project`).

Pure code for a thread: it reads a file by its descriptor, hands bytes to a function, and keeps
neither content nor names in memory. Nothing is extracted here, so nothing can be written anywhere.
"""
