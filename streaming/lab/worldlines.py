"""Simulated records as the lines of a log; must not know why they were drawn."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from streaming.lab.facts import Ids, IdSpace, Records
from streaming.lab.population import DEVICES, MEMBERSHIPS, PLACEMENTS, Items, Users
from streaming.lab.traffic import Shown


def hex_ids(ids: Ids) -> list[str]:
    """16 hex digits each.

    Example:
        >>> hex_ids(np.array([255], dtype=np.uint64))
        ['00000000000000ff']
    """
    digits = ids.astype(">u8").tobytes().hex()
    return [digits[at : at + 16] for at in range(0, len(digits), 16)]


class ImpressionLines:
    """Writes impressions. What a user or an item brings along is encoded once, not for each impression: 2.3 us a line.

    Args:
        users, items: the population.
    """

    def __init__(self, users: Users, items: Items) -> None:
        self._users = [
            _members(
                user_id=f"u{user}",
                age=None if age != age else int(age),
                city=None if city < 0 else f"c{city}",
                membership=MEMBERSHIPS[membership],
            )
            for user, (age, city, membership) in enumerate(
                zip(users.age.tolist(), users.city.tolist(), users.membership.tolist(), strict=True)
            )
        ]
        self._items = [
            _members(
                item_id=f"i{item}",
                brand=None if brand < 0 else f"b{brand}",
                category=f"k{category}",
                tags=[f"t{tag}" for tag in dict.fromkeys(tags) if tag >= 0],
                price=price,
                quality=None if quality != quality else quality,
            )
            for item, (brand, category, tags, price, quality) in enumerate(
                zip(
                    *(
                        column.tolist()
                        for column in (items.brand, items.category, items.tags, items.price, items.quality)
                    ),
                    strict=True,
                )
            )
        ]
        # -1, no item, is the last entry, and empty.
        self._in_list = np.array([f'"i{item}",' for item in range(len(items.price))] + [""], dtype=object)

    def lines(self, impression_id: Ids, shown: Shown, faulty: Iterable[int]) -> list[bytes]:
        """The lines of these impressions; the rows named in `faulty` have a word for a price."""
        recency = ["" if hours != hours else f',"recency_hours":{hours:.3f}' for hours in shown.recency_hours.tolist()]
        recent = self._in_list[shown.recent].sum(axis=1).tolist()
        rows = zip(
            hex_ids(impression_id),
            shown.event_time_ms.tolist(),
            shown.user.tolist(),
            shown.item.tolist(),
            shown.device.tolist(),
            shown.placement.tolist(),
            shown.hour.tolist(),
            recency,
            recent,
            strict=True,
        )
        users, items = self._users, self._items
        lines = [
            f'{{"impression_id":"{name}","event_time_ms":{time},"features":{{{users[user]},{items[item]}'
            f',"device":"{DEVICES[device]}","placement":"{PLACEMENTS[placement]}","hour":"{hour}"{hours}'
            f',"recent_items":[{history[:-1]}]}}}}\n'.encode()
            for name, time, user, item, device, placement, hour, hours, history in rows
        ]
        for row in faulty:
            head, _, tail = lines[row].partition(b'"price":')
            lines[row] = head + b'"price":"on request",' + tail.partition(b",")[2]
        return lines


def _members(**members: object) -> str:
    """The members of a JSON object, without its braces; None is left out."""
    known = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode(known).decode()[1:-1]


def fact_lines(records: Records, event_ids: IdSpace) -> list[bytes]:
    """The lines of clicks, or of conversions if they have values."""
    rows = zip(
        hex_ids(records.impression_id),
        records.event_time_ms.tolist(),
        hex_ids(event_ids.take(len(records))),
        strict=True,
    )
    if records.value is None:
        return [
            f'{{"impression_id":"{name}","event_time_ms":{time},"event_id":"{event}"}}\n'.encode()
            for name, time, event in rows
        ]
    return [
        f'{{"impression_id":"{name}","event_time_ms":{time},"event_id":"{event}","value":{value}}}\n'.encode()
        for (name, time, event), value in zip(rows, records.value.tolist(), strict=True)
    ]
