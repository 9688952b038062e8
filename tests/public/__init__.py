"""Small programs, taken from public reports about services like this one."""
