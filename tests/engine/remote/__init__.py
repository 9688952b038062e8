"""An engine that is in memory and behaves as if it were far away: the contract's second engine.

`server` is what is on the other side, `wire` is the way there, `mirror` the reading side of a node,
`engine` and `lease` what the service gets. Nothing else of the tests reaches behind the wire.
"""
