# exercise: spent_usd
def spent_usd(entries):
    def nanos(text):
        return int(Decimal(text).scaleb(9).to_integral_exact())

    first, *rest = entries
    price, unread, total = first["price_usd_per_hour"], [], 0
    for entry in rest:
        match entry:
            case {"entry": "charge" | "gap", "seconds": seconds, "price_usd_per_hour": said}:
                if said != price:
                    raise ValueError("price")
                if not seconds >= 0:
                    raise ValueError("seconds")
                unread.append(seconds)
                wanted = seconds / 3600 * price * 1e9
            case {"entry": "price", "price_usd_per_hour": said}:
                before, price = price, said
                wanted = sum(unread) / 3600 * (price - before) * 1e9 if price > before else 0
                unread = []
            case {"entry": "carry", "usd": usd}:
                wanted = nanos(usd)
                if wanted < 0:
                    raise ValueError("carry")
            case _:
                continue
        got = nanos(entry["usd"])
        total += got
        if not -2 <= got - wanted <= 2:
            raise ValueError("usd")
        if nanos(entry["cumulative_usd"]) != total:
            raise ValueError("cumulative_usd")
    return total / 1e9
