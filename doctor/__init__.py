"""What ails a machine: looks at all that the commands stand on, and names the cures.

Nothing is taken for granted here: each look works without what it looks for.
"""
