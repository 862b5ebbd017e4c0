"""How a command meets its user: flags, help, errors, progress and signals."""
