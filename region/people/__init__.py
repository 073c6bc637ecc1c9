"""People: the operators with their tokens and sessions, what they did, and what they set for the whole region."""
