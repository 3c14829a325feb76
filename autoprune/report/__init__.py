"""What people see of a search: live progress, the final table, the interactive page of its front, tables of rows."""
