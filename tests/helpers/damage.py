"""Files damaged at random places, as a bad disk, a broken copy or an older version leave them."""


def damaged(data, rng, cut_only=False):
    """(what was done, other bytes than `data`)."""
    kind = rng.choice(["cut"] if cut_only else ["bit", "bit", "zeros", "cut", "empty"])
    at = rng.randrange(len(data))
    if kind == "bit":
        new = bytearray(data)
        new[at] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        new = data[:at] + bytes(min(16, len(data) - at)) + data[at + 16 :]
    else:
        new = data[:at] if kind == "cut" else b""
    return f"{kind} at {at} of {len(data)}", bytes(new)
