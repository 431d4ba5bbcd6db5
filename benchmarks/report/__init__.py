"""A trial's results for a reader: Markdown, and one HTML file that opens from disk."""
