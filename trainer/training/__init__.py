"""The training itself: steps, losses, optimisers, and the loop around them."""
