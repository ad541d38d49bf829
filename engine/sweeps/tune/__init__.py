"""`crosstax tune`: a search over fields of a sweep file, decided by validation answers only."""
