"""Programs that must not be able to tell whether they were started before their job."""
