"""Images that no memory holds: block by block, from pixels to outputs."""
