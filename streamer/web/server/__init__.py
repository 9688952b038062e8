"""The process of `streamer serve`: its socket, its connections, its log."""
