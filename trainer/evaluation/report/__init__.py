"""What people read of an evaluation: the table in the terminal, the charts and the report page."""
