"""What can be asked over HTTP: one `Operation` for each route and method.

The handlers make their routes from these, and the OpenAPI document is made from the same: a route
without a description cannot be added. `streamer.web.operations.table` has all of them.
"""
