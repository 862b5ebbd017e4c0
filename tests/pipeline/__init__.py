"""The Beam job: same bytes, complete or not there, one line for each mistake."""
