"""Files: local or remote paths, atomic writes, locks, JSON with digests."""
