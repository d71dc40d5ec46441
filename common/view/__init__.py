"""Pages and servers that show runs: to turn a model, to compare several, to follow one live."""
