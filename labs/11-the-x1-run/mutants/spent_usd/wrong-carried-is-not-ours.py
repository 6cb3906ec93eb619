# caught by: test_honest_ledgers_add_up
# exercise: spent_usd
def spent_usd(entries):
    spent, price, unread_s = Decimal(0), entries[0]["price_usd_per_hour"], 0.0
    for entry in entries:
        if entry["entry"] in ("charge", "gap"):
            if entry["price_usd_per_hour"] != price or entry["seconds"] < 0:
                raise ValueError(entry)
            unread_s += entry["seconds"]
            implied = entry["seconds"] * price / 3600
        elif entry["entry"] == "price":
            implied = max(unread_s * (entry["price_usd_per_hour"] - price) / 3600, 0)
            price, unread_s = entry["price_usd_per_hour"], 0.0
        else:
            continue
        spent += Decimal(entry["usd"])
        if abs(float(entry["usd"]) - implied) > 2e-9 or Decimal(entry["cumulative_usd"]) != spent:
            raise ValueError(entry)
    return spent
