"""The sandbox backends that come with streamer, one module each."""
