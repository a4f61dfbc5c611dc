"""What this distribution provides to qadv; it imports neither torch nor Foolbox."""

from collections.abc import Iterator

import qadv
from qadv.components import Attack


@qadv.hookimpl
def qadv_attacks() -> Iterator[Attack]:
    yield Attack(
        name="foolbox",
        target="qadv_foolbox.attacks:create",
        family="qadv_foolbox.catalogue:names",
        summary="any attack of Foolbox, e.g. 'foolbox-linf-pgd'",
        requires=("foolbox>=3.3.4",),
    )
