"""THINGS as a dataset: the paper's 2,040 pairs, their phrases, and the images the user fetched from OSF."""
