"""Where exports go: version directories, published by one atomic act."""
