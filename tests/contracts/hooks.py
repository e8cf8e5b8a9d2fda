"""What Schemathesis cannot know from the documents: values of formats that have no standard."""

import schemathesis
from hypothesis import strategies as st

periods = st.builds(
    lambda days, seconds: f"P{days}DT{seconds}S", st.integers(0, 365), st.integers(1, 86_400)
)
schemathesis.openapi.format("duration", st.one_of(st.sampled_from(["P14D", "P2W", "PT1S", "P366D"]), periods))

zones = ["America/Mexico_City", "UTC", "Asia/Kolkata", "Europe/Berlin", "Pacific/Chatham"]
schemathesis.openapi.format("time-zone", st.sampled_from(zones))

letters = "abcdefghijklmnopqrstuvwxyz0123456789"
urls = st.builds(lambda host, path: f"https://{host}.example/{path}", st.text(letters, min_size=1, max_size=20), st.text(letters, max_size=20))
schemathesis.openapi.format("uri", urls)

HEADER = "external_id,user_id,segment,product_id,amount_cents,currency_code,repayment_rate,country_code,valid_until,promotion_key"
fields = st.builds(
    lambda number, user, amount: (f"s-{number}", user, "newbie", 80, amount, "MXN", "15", "MX", "2099-01-01 00:00:00 UTC", "mx-newbie-20"),
    st.integers(0, 1_000), st.integers(-1, 1_000_000), st.integers(-1, 1_000_000),
)
csv_lines = fields.map(lambda values: ",".join(str(value) for value in values))
csv_files = st.lists(csv_lines, max_size=5).map(lambda lines: "\n".join([HEADER, *lines]).encode())
schemathesis.openapi.media_type("text/csv", csv_files)

# Any line is a line, if often a bad one.
names = HEADER.split(",")
json_lines = fields.map(lambda values: __import__("json").dumps(dict(zip(names, values))))
any_lines = st.one_of(json_lines, st.sampled_from(["{}", "[]", "not JSON", "", "null", '{"external_id":1}']))
schemathesis.openapi.media_type("application/x-ndjson", st.lists(any_lines, max_size=5).map(lambda lines: "\n".join(lines).encode()))


@schemathesis.hook
def map_query(context, query):
    """A long poll of a second shows as much as one of thirty."""
    if query and isinstance(query.get("wait"), int) and 1 < query["wait"] <= 30:
        query["wait"] = 1
    return query
