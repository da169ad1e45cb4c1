"""How good invented people are, by judges that no training saw."""
