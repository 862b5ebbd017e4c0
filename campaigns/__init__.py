"""What tries to break the project, by thousands: commands with a count and a seed."""
