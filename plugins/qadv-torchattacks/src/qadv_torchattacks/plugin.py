"""What this distribution provides to qadv; it imports neither torch nor torchattacks."""

from collections.abc import Iterator

import qadv
from qadv.components import Attack


@qadv.hookimpl
def qadv_attacks() -> Iterator[Attack]:
    yield Attack(
        name="torchattacks",
        target="qadv_torchattacks.attacks:create",
        family="qadv_torchattacks.catalogue:names",
        summary="any attack of torchattacks, e.g. 'torchattacks-pgd'",
        requires=("torchattacks>=3.5.1",),
    )
