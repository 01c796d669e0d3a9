"""HTML pages in one file: no script, no network, every text escaped, pictures as thumbnails."""
