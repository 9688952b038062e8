"""What `streamer doctor` tells of a host: facts, and what programs in its sandboxes reach."""
