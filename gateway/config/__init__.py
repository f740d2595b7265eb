"""What a team edits, read into one immutable snapshot."""
