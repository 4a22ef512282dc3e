"""The outbox: what has to leave the house, written in the transaction of the change that causes it.

Knows no other app of the house. `outbox.put` writes, `couriers` says who carries which kind, `sending` carries,
`refusals` knows when nothing can be put.
"""
