"""The Beam job: its transforms, and the runners that execute it."""
