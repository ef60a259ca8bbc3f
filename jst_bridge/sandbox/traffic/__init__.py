"""Made-up Jushita traffic whose truth is known: the lives of orders, in the true shapes of the platform's messages.

traffic = Traffic(TrafficSettings(seed=7, sellers=200, disturbances=Disturbances(bad=0.01)))
sent = list(traffic.outgoing(100_000))     # bodies, tags and keys, to be sent to a system topic
truth = Truth.of(sent)                     # the rows that a store must hold after that
"""

from .disturbances import Disturbances, Outgoing
from .generator import Traffic, TrafficSettings
from .lives import Happening
from .orders import Line, Order, Seller
from .publishing import Published
from .truth import Truth

__all__ = [
    "Disturbances",
    "Happening",
    "Line",
    "Order",
    "Outgoing",
    "Published",
    "Seller",
    "Traffic",
    "TrafficSettings",
    "Truth",
]
