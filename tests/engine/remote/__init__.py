"""An engine in memory that behaves like a remote one: the second engine of the contract suite.

`server` is the remote side, `wire` the connection to it, `mirror` the reading side of a node,
`engine` and `lease` what the service uses. Other tests only use the local side.
"""
