"""Where the bytes of blobs are, if not in the engine's server: a shared folder, or S3."""
