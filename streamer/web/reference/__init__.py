"""The reference of the HTTP interface: the OpenAPI document, generated, and its page."""
