"""Discord and the local card file."""
