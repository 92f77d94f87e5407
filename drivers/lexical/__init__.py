"""Words: how a text is cut into them, and the index that finds them again."""
