"""Reports of an evaluation: a page for readers, Markdown for a README, CSV and JSON for machines."""
