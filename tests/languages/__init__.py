"""Each built-in language: what a first program, a textbook's and a judge's do in it."""
