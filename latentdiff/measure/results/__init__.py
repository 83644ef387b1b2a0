"""What every measurement keeps and shows: resumable parts, tables, plots, one page."""
