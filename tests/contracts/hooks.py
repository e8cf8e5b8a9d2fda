"""What Schemathesis cannot know from the documents."""

import base64
import json

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

# Values of formats that are ours, or narrower than the standard's.

periods = st.builds(
    lambda days, seconds: f"P{days}DT{seconds}S", st.integers(0, 365), st.integers(1, 86_400)
)
schemathesis.openapi.format("duration", st.sampled_from(["P14D", "P2W", "PT1S", "P366D"]) | periods)

zones = ["America/Mexico_City", "UTC", "Asia/Kolkata", "Europe/Berlin", "Pacific/Chatham"]
schemathesis.openapi.format("time-zone", st.sampled_from(zones))

letters = "abcdefghijklmnopqrstuvwxyz0123456789"
labels = st.text(letters, min_size=1, max_size=20)
schemathesis.openapi.format("iri", st.builds(lambda a, b: f"https://{a}.example/{b}", labels, labels))

# Files of pre-offers: any line is a line, if often a bad one; a CSV's header must name the columns.

HEADER = [
    "external_id", "user_id", "segment", "product_id", "amount_cents",
    "currency_code", "repayment_rate", "country_code", "valid_until", "promotion_key",
]
pre_offers = st.builds(
    lambda number, user, amount: [
        f"s-{number}", user, "newbie", 80, amount, "MXN", "15", "MX", "2099-01-01 00:00:00 UTC", "mx-newbie-20",
    ],
    st.integers(0, 1_000), st.integers(-1, 1_000_000), st.integers(-1, 1_000_000),
)


def lines(line, first=()):
    return st.lists(line, max_size=5).map(lambda lines: "\n".join([*first, *lines]).encode())


csv_line = pre_offers.map(lambda values: ",".join(str(value) for value in values))
json_line = pre_offers.map(lambda values: json.dumps(dict(zip(HEADER, values))))
bad_line = st.sampled_from(["{}", "[]", "not JSON", "", "null", '{"external_id":1}'])
schemathesis.openapi.media_type("text/csv", lines(csv_line, [",".join(HEADER)]))
schemathesis.openapi.media_type("application/x-ndjson", lines(json_line | bad_line))



# Cursors are opaque: only the service knows which are places in its lists.

PLACES = {
    "rides": [1_700_000_000_000, "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11"],
    "list_promotions": 1,
    "list_products": 1,
    "list_geo_config": "AA",
    "list_quarantine": [4_000_000_000_000, "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11"],
    "list_audit": 1_000,
    "list_extensions": 1,
    "list_outages": 1,
    "list_participations": [1_700_000_000_000, 1, 1],
    "list_reversals": [1_700_000_000_000_000, 1, 1, "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11"],
}


def shape(place):
    """What a place is made of; those of one list are of one shape."""
    return [type(part) for part in place] if isinstance(place, list) else type(place)


def is_place(cursor, known):
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return shape(place) == shape(known)
    except ValueError:
        return cursor == ""


def integers(value):
    """JSON Schema takes 5.0 for an integer; the service, as its documentation says, does not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [integers(item) for item in value]
    if isinstance(value, dict):
        return {name: integers(member) for name, member in value.items()}
    return value


@schemathesis.hook
def before_call(context, case, kwargs):
    query = case.query or {}
    # A long poll of a second shows as much as one of thirty.
    if isinstance(query.get("wait"), int) and 1 < query["wait"] <= 30:
        query["wait"] = 1
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    place = PLACES.get(case.operation.definition.raw.get("operationId"))
    if isinstance(query.get("cursor"), str) and not is_place(query["cursor"], place):
        query["cursor"] = base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")
    if isinstance(case.body, (dict, list)):
        case.body = integers(case.body)
