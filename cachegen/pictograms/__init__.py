"""Everyday things as several emoji sets draw them: a dataset of real images from packages of the npm registry."""
