"""What the measurements come to: medians, criteria, the table, the JSON and the charts."""
