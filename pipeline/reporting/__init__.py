"""What the report shows: gathered figures, comparisons, tables, plots and the page."""
