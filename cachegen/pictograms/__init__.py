"""Everyday things as several emoji sets draw them: a dataset of real pictures from packages of the npm registry."""
