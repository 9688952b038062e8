"""Small programs after what people report of services like this one."""
