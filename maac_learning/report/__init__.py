"""``maac report``: committed learning curves and measurements as pictures, tables and one page."""
