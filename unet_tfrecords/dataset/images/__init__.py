"""Image files and the layouts in which people keep them."""
