"""Self-contained HTML pages: style, charts, values."""
